"""Comparison of decoding methods on a pair, a machine and data: what `sage bench` runs.

What belongs here: items, methods, the measurement (`measure`), its figures (`summary`), and the
comparison of two runs (`compare`). Nothing prints or draws; that is `sage_cli`. What does not:
decoding itself, and the renderer of training scenes (`training.world`).
"""
