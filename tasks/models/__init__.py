"""What is done with a finished model: sample, look through the lens, export, complete files of prompts.

Not for registering one (`tasks.register_model`). From outside: every module.
"""
