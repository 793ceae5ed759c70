"""Alerts: rules by which somebody is told of something, what was told before, and how it is delivered.

Not for who looks: the run itself (`tasks.finetuning.run_watch`) and the worker (`tasks.scheduling.night_watch`). From outside:
`announcer`, `alert`, `rules`, `alert_log`.
"""
