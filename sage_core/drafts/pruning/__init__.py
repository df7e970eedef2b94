"""Visual tokens that the draft does not read.

What belongs here: the options of pruning, the scores by which tokens are kept, and the prompt that
is left for the draft. What does not: anything that the target reads, which is always everything.
"""
