"""What is done with a finished model: sample, look through the lens, export.

Not for registering one (`tasks.register_model`). From outside: every module.
"""
