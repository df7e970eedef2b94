"""Several texts decoded at once.

What belongs here: the scheduler that makes their passes together, and padded batches of `generate`
taken apart and put together again. What does not: decoding itself, which is the loop of one text.
"""
