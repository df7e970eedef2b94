"""Drafts that are one layer on top of their target: they read its hidden states, not its weights.

`config` says what a head is, `module` computes, `compress` shortens pictures, `making` begins a
head for a target, `checkpoint` saves and loads it, `drafter` drafts with it.
"""
