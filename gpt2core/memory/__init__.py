"""What fits: an update on tensors without data, a trial of a few real updates, the plan made of both.

Not for the settings of a run (`tasks.resolve_settings` asks here). From outside: `plan`, `workload`, `dry_run`, `trial_run`.
"""
