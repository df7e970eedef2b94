"""Token trees, what passes cost, and the policies that shape trees.

Belongs here: what needs numpy only. Must not be here: torch, models, tokens as text, or anything
that runs a forward pass.
"""
