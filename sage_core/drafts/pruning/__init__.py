"""Pruning of the draft's visual tokens.

What belongs here: its options, the scores by which tokens are kept, and the resulting prompt of the
draft. What does not: the target's prompt, which is never pruned.
"""
