"""Registering: a version of some content, found or made, gets its alias while nobody else moves or removes any."""

from __future__ import annotations

from collections.abc import Callable

from mlflow import MlflowClient

from tasks.registry.alias_lock import moving_aliases


def register(
    client: MlflowClient, model: str, alias: str, run_id: str, tags: dict[str, str], log: Callable[[], str], patience: float
) -> str:
    """Give the alias to the version with the content that `tags` name, whichever run made it; returns its number.

    Where there is none, `log` returns the URI of a logged model that works, and nobody waits for that; whoever has
    registered the same meanwhile is found. Raises UserError where somebody holds the model's lock for `patience` seconds.
    """
    uri = None
    while True:
        with moving_aliases(client, model, f"registering {tags['run']}", patience):
            version = _find_version(client, model, tags["content"])
            if version is None and uri:
                version = _create_version(client, model, uri, run_id, tags)
            if version:
                client.set_registered_model_alias(model, alias, version)
                return version
        uri = log()


def _find_version(client: MlflowClient, model: str, content: str) -> str | None:
    found = client.search_model_versions(f"name = '{model}'")
    return next((str(version.version) for version in found if version.tags.get("content") == content), None)


def _create_version(client: MlflowClient, model: str, uri: str, run_id: str, tags: dict[str, str]) -> str:
    if not client.search_registered_models(f"name = '{model}'"):
        client.create_registered_model(model, description="GPT-2, fine-tuned by gpt2flow")
    model_id = uri.removeprefix("models:/")
    made = client.create_model_version(model, uri, run_id, tags={**tags, "model_id": model_id}, model_id=model_id)
    return str(made.version)
