"""A run on disk: its folder, id and files, how it is found, where it starts, its checkpoints by hand.

Not for training it (`tasks.finetuning`). From outside: every module.
"""
