"""The token store: scan the text, plan shards, encode them, check them, publish, read windows at memory speed.

Not for the order in which training reads (`gpt2core.training.batches`). From outside: `encoding`, `token_store`,
`document_stream`, `report`, `contracts`, `shuffle`.
"""
