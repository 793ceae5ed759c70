"""Pages about a run: facts, charts, figures, the lens through time.

Not for terminal output. From outside: `page`, `facts`, `lens`.
"""
