"""What passes cost, and what policies learn of a pair.

What belongs here: timing passes (`calibration`), the keys by which costs are stored (`keys`) and
the store itself. What does not: planning by costs, which is a policy's (`trees.policies.sage`).
"""
