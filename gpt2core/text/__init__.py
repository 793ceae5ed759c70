"""From a source to clean documents and to token ids: files, containers, formats, encodings, the tokenizer.

Not for storing tokens (`gpt2core.store`). From outside: `sources`, `documents`, `pieces`, `scripts`, `token_arrays`,
`tokenizer`, `token_text`.
"""
