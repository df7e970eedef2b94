"""One module per command: its arguments, its help, and the call of its job. No work belongs here
that another command could need.
"""
