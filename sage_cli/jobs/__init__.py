"""What commands do: input files, requests, decoding them one by one or in batches, the chat loop,
benchmarks and training. Decoding itself is `sage_core`'s; what results look like is `render`'s.
"""
