"""What generate's rules make of logits: processors, stopping, sampling and acceptance.

Belongs here: how the next token is chosen and when a text ends. Must not be here: forward passes,
drafters, caches.
"""
