"""The world that the bundled pair knows: scenes, how they are drawn, and what is said about them.

It is what the pair was trained on and, with seeds that no training used, what it is measured on
(`heldout`). Everything is made from a random generator: equal seeds give equal pictures and texts.
"""
