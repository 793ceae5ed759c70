"""One evaluated step, here, in another process or by a worker; and comparing two models on any text.

Not for the figures themselves (`gpt2core.evaluation`). From outside: `evaluate_step`, `checkpoint`, `in_process`, `by_worker`,
`compare`.
"""
