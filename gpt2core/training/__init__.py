"""The update and all that it consumes: windows, noise, gradients, numbers in low precision.

Not for what is made of gradients (`gpt2core.optimization`), for saving (`gpt2core.checkpoints`) or measuring
(`gpt2core.evaluation`). From outside: `trainer`, `batches`, `run_length`, `ranking`, `loss_spikes`, `nshepperd_batches`.
"""
