"""Runs that start by themselves: deployments, the worker that takes them, recovery, nights, one training per device.

Not for what a run does. The truth about what is alive are locks of the file system (`tasks.runs.flow_run_locks`), not states in
a database. From outside: every module.
"""
