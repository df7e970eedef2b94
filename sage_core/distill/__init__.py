"""Distillation: training a draft (a head or a small model) against a frozen target.

Here: the options of a run, its samples, the target as teacher, losses, the training loop with its
checkpoints, the report, and the dry run. Not here: what a head is and how it drafts
(`sage_core.drafts.head`), decoding (`sage_core.engine`), and anything that prints
(`sage_cli.jobs.distill`). `run.distill` is the entry point.
"""
