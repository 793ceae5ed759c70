"""The one folder of all state: where everything lies, its environment variables and its two databases.

Not for what a run writes (`tasks.runs`). From outside: `folders`, `databases`.
"""
