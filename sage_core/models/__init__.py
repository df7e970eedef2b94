"""Checkpoints: finding, checking, measuring, placing and loading one model; model families.

Belongs here: everything about a checkpoint, its tokenizer and its inputs. Must not be here: drafts
as proposers, caches, decoding.
"""
