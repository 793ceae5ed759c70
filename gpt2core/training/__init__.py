"""The update and all that it consumes: windows, noise, learning rate, optimizer, numbers in low precision.

Not for saving (`gpt2core.checkpoints`) or measuring (`gpt2core.evaluation`). From outside: `trainer`, `batches`, `optimizers`,
`run_length`, `ranking`, `loss_spikes`, `nshepperd_batches`.
"""
