"""Draft heads: one layer on top of their target, which reads its hidden states, not its weights.

What belongs here: what a head is (`config`), computes (`module`, `compressor`) and begins as
(`init`), how it is saved (`checkpoint`, `fingerprint`, `saved`), and how it drafts (`runner`,
`drafter`). What does not: training, which is `distill`.
"""
