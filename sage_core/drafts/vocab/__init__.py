"""Reduced draft vocabularies: a draft that computes the logits of some tokens only.

What belongs here: lists of tokens, how they are counted from texts, and the rows of an output head.
What does not: the target's logits, which always cover the whole vocabulary.
"""
