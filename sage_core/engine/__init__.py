"""From a prompt to the last token, for one text or many.

What belongs here: the decoding loop (`loop`), the parts that one text is decoded with (`session`,
`settings`, `extensions`), what is kept between texts, batches, and what passes cost. What does not:
files, options of requests, anything of the command line.
"""
