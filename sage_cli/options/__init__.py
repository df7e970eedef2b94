"""Command-line options: dataclasses with one annotated field per option, the decorator that turns
their fields into a command's options, defaults from file and environment, and the checks made
before a model is loaded. No work on files or models belongs here; options import no job.
"""
