"""A model over HTTP: requests with strict fields, the model that follows its alias, the application, its server.

Not for MLflow's and Prefect's servers (`tasks.servers`), nor for prompts in files. From outside: `server`.
"""
