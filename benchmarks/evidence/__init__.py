"""The tables and figures of the papers, made again on one pair, and what they leave out.

`python -m benchmarks.evidence` writes them all; ``--only NAME`` one of them. Each `Part` has three
functions: `run` measures and returns plain data, `page` writes them in Markdown, `draw` makes a
figure. `series`, the bounds in `calibrated` and `lengths.reached` are arithmetic without a model.
"""
