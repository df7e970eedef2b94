"""The renderer of training scenes: what is in them, how they are drawn, and texts about them.

The bundled pair is trained on them and, with seeds that no training uses (`heldout`), evaluated on
them. Everything is made from a random generator: equal seeds give equal images and texts. Not part
of the installed package; `training.bench_items` writes the files that `sage bench` ships.
"""
