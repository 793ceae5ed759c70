"""How weights are changed: which ones are trained, optimizers and learning rate.

Not for gradients (`gpt2core.training`). From outside: `optimizers`, `schedule`, `trainable`.
"""
