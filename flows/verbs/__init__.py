"""Every verb of `gpt2flow`; importing this package registers them with `flows.app`."""

from flows.verbs import corpus, evaluation, models, runs, schedules, surroundings

__all__ = ["corpus", "evaluation", "models", "runs", "schedules", "surroundings"]
