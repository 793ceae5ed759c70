"""The live run that the stages share: trainer, folder, tracking, checkpoints, its result.

Not for stages, which stand at the top of `tasks`. From outside: `open_run`, `result`.
"""
