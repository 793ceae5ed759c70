"""Looking after a workspace as a whole: copies of it, putting one back, removing what nothing needs any more.

Not for single runs or versions (`tasks.runs.checkpoints`, `tasks.promotion.versions`). From outside: every module.
"""
