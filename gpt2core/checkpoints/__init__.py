"""Checkpoints: taken, written in the background, verified, kept, repaired and restored.

Not for weights of other programs (`gpt2core.weights`). From outside: `checkpoint`, `background_saver`, `retention`, `weights`,
`frozen_weights`.
"""
