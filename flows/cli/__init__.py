"""The command line: one module a group of verbs, `main` the front door.

Not for what a verb does (`flows`, `tasks`) or how its results look (`flows.pages`).
"""
