"""What the command line prints: tables and panels made of what the tasks return.

Not for HTML (`tasks.reports`). From outside: every module.
"""
