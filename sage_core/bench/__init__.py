"""Measuring which method decodes fastest on a pair, a machine and data: what `sage bench` runs.

`measure` decodes every item by every method and yields a record of each; `summary` makes the
figures of them; `compare` says what changed between two runs. Nothing here prints.
"""
