"""What goes on in the workspace: the state of its runs, what starts next, all runs and versions on one page.

Not for looking at figures while a run goes on (`tasks.finetuning.run_watch`). From outside: `status`, `overview`.
"""
