"""Passes on a CPU: packed weights and traced forward passes.

What belongs here: what makes a pass of the model's own modules faster on a CPU and leaves its
result as it is. What does not: caches and masks, which all executors share.
"""
