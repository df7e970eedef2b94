"""The tables and figures of the papers, made again on one pair, and what they leave out.

`python -m benchmarks.evidence` writes them all; ``--only NAME`` one of them. Each part is a module
with three functions: `run` measures and gives plain data, `page` tells them in Markdown, `draw`
makes a figure. `series`, `bins`, `bounds` and `lengths.reached` are arithmetic without a model.
"""
