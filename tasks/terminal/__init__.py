"""What a person sees while something runs, and how they stop it.

Not for the command line's tables (`flows.pages`). From outside: every module.
"""
