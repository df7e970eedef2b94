"""How one forward pass over a tree runs.

What belongs here: key/value caches, tree masks, the runner of a model, executors (eager, CPU, CUDA
graphs), attention kernels, passes of several texts as one. What does not: anything that knows a
drafter, a policy or the decoding loop.
"""
