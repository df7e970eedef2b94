"""Is the output the target's own? Everything that drafts, against transformers' `generate`.

- `ways`: how a text is decoded; `matrix`: which ways go with which prompts of tiny random pairs;
  `prompts` makes these; `pair`: held-out inputs on a trained pair;
- `tally`: texts compared and counted; `report`: as Markdown; `__main__`: the command.
"""
