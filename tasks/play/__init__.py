"""The page on which a person tries a model: writing, chat, lens, champion against candidate; what it asks for, its server.

Not for programs, which ask `tasks.serving`. From outside: `server`.
"""
