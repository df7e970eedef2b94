"""What proposes tokens: a model, a head, n-grams, a grammar.

What belongs here: drafters, which grow a tree under a policy's planner, and what they read and
score (visual-token pruning, reduced vocabularies). What does not: the decoding loop, acceptance,
costs.
"""
