"""Small files: read with limits, replaced whole.

Belongs here: reading JSON, TOML and lists within limits of size and depth, and replacing a file at
once. Must not: what the files mean; the module that asks for a file checks that.
"""
