"""Mutated files, bombs and interruptions: what a run does with what is broken."""
