"""GPT-2 itself: sizes, network, attention, loss, adapters, key-value cache; `gpt2.py` is the file to read first.

Not for files of weights (`gpt2core.weights`) or optimizers (`gpt2core.training`). From outside: `config`, `gpt2`, `lora`,
`key_value_cache`, `gradient_sums`.
"""
