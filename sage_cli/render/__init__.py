"""How results look and where they are written: text, JSON, tables, the live view, saved pages,
output files. Renders what it is given; knows no options and starts no work.
"""
