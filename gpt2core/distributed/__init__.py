"""The processes that make each update together: what they exchange, and how the loss of one of them is noticed and named.

Not for starting processes, nor for what they do between updates (`tasks.finetuning`). From outside: `process_group`,
`messages`, `gradient_exchange`, `overlapped_sum`, `shards`, `processes`, `launch`, `sameness`.
"""
