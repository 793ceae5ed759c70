"""Files of weights in every layout that is read or written, and finding a model on a hub.

Not for checkpoints of training (`gpt2core.checkpoints`). From outside: `loading`, `model_folder`, `tensor_files`,
`adapter_files`, `hub`.
"""
