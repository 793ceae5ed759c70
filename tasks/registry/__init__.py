"""The model registry: what it knows of versions and aliases, the lock under which aliases move, registering under that lock.

Not for deciding who carries an alias (`tasks.promotion`), nor for making what is registered (`tasks.register_model`). From
outside: all.
"""
