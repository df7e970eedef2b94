"""Passes on a GPU: static shapes, captured as CUDA graphs.

What belongs here: the static cache, the pass as a function of device tensors, and its captures.
What does not: attention kernels, which stand in `runtime.attention`.
"""
