"""Runs that start by themselves: deployments, the worker that takes them, locks, recovery, supervision of the servers.

The truth about what is alive are locks of the file system, which any kill frees; Prefect's states are mended to match them.
"""
