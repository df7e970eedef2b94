"""Training a draft for a target: the target is frozen and teaches as it reads.

`options` says what is trained and how, `data` reads samples, `found` looks at them before a target
is loaded, `teacher` makes lessons of them, `unroll` and `losses` are the arithmetic, `head_student`
and `model_student` are what is trained, `trainer` is the loop, `state` keeps it, `report` measures
the result, `run` puts all together.
"""
