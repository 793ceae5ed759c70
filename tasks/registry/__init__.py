"""The model registry: what it knows of versions and aliases, and the lock under which aliases move.

Not for deciding who carries an alias (`tasks.promotion`), nor for registering (`tasks.register_model`). From outside: all.
"""
