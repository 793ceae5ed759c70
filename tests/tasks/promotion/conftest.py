"""Models that are made for a promotion: trained once for seconds, then made worse, registered as a run would register them."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from configs.schema import DataSettings, RunConfig, TrainSettings
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.store.encoding import encode_store
from gpt2core.store.token_store import TokenStore, open_store
from gpt2core.text.documents import find_files
from gpt2core.text.tokenizer import Tokenizer, train_tokenizer
from gpt2core.training.batches import Batches
from gpt2core.training.trainer import Trainer
from gpt2core.weights.loading import save_model
from tasks.evidence import measure
from tasks.promotion.ledger import Decision, Ledger
from tasks.promotion.match import deadline
from tasks.promotion.record import record_and_move
from tasks.registry.lookup import Aliases, content_hash
from tasks.tracking import registered_model
from tasks.workspace.databases import prepare_databases
from tasks.workspace.folders import Workspace

TEXT = "the a model text learns reads writes token loss falls rises night day better worse than and or but house river"
WORDS = TEXT.split(" ")


@dataclass
class Foundry:
    """Makes registered versions out of models."""

    folder: Path
    store: TokenStore
    tokenizer: Tokenizer
    good: GPT2
    """The best model that there is; `noised` makes worse ones of it."""
    made: int = field(default=0)

    @staticmethod
    def sentences(count: int, seed: int, start: str = "") -> list[str]:
        """Documents of 30 to 60 words that no two share."""
        random = np.random.default_rng(seed)
        return [
            start + " ".join(random.choice(WORDS, random.integers(30, 60))) + f" number {seed}-{number}."
            for number in range(count)
        ]

    @staticmethod
    def corpus(folder: Path, texts: Sequence[str]) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        return folder

    @staticmethod
    def encoded(source: Path, tokenizer: Tokenizer) -> TokenStore:
        data = DataSettings(source=[str(source)], validation=0.25)
        return open_store(encode_store(find_files(data), data, tokenizer, Workspace.current().create().stores))

    @staticmethod
    def trained(store: TokenStore, tokenizer: Tokenizer, steps: int = 120) -> GPT2:
        model = GPT2(GPT2Config(tokenizer.n_vocab, 64, 32, 2, 2)).initialise(0)
        settings = TrainSettings(steps=steps, batch_size=8, warmup_steps=5, learning_rate=1e-2, dtype="float32")
        Trainer(model, Batches(store.stream("train"), 64, 8, 0), settings).run_until(steps)
        return model

    @staticmethod
    def noised(model: GPT2, scale: float, seed: int) -> GPT2:
        """The same model with noise of so much of each parameter's own size."""
        random = torch.Generator().manual_seed(seed)
        worse = GPT2(model.config)
        worse.load_state_dict(model.state_dict())
        with torch.no_grad():
            for parameter in worse.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=random), alpha=scale * float(parameter.abs().mean()))
        return worse

    def register(
        self,
        name: str,
        network: GPT2,
        *,
        store: TokenStore | None = None,
        tokenizer: Tokenizer | None = None,
        alias: str = "candidate",
        **sections: Any,
    ) -> str:
        """A version as `register_model` makes it, with the alias; returns its number."""
        self.made += 1
        folder = self.folder / f"made-{self.made}" / "model"
        save_model(network, folder, end_of_text=(tokenizer or self.tokenizer).end_of_text)
        (tokenizer or self.tokenizer).save(folder)
        sizes = {"n_ctx": 64, "n_embd": 32, "n_head": 2, "n_layer": 2}
        evaluate = {"prompts": ["the ", "a "], **sections.pop("evaluate", {})}
        config = RunConfig.model_validate({"name": name, "model": sizes, "evaluate": evaluate, **sections})
        about = {"store": (store or self.store).hash, "mask_documents": False, "config": config.model_dump(mode="json")}
        client = MlflowClient()
        with mlflow.start_run(experiment_id=self._experiment(client)) as run:
            artifacts, code = {"model": str(folder)}, str(Path(registered_model.__file__))
            info = mlflow.pyfunc.log_model(
                name="model", python_model=code, artifacts=artifacts, metadata=about, pip_requirements=[]
            )
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        tags = {
            "store": about["store"],
            "content": content_hash(folder),
            "base": config.model.base,
            "checkpoint": "step-00000120",
        }
        identity = {"model_id": info.model_id}
        made = client.create_model_version(name, info.model_uri, run.info.run_id, {**tags, **identity}, **identity)
        client.set_registered_model_alias(name, alias, made.version)
        return str(made.version)

    def against(self, name: str, champion: GPT2, candidate: GPT2, **options: Any) -> tuple[str, str]:
        """Two versions, the first one champion and the second one candidate."""
        return self.register(name, champion, alias="champion"), self.register(name, candidate, **options)

    @staticmethod
    def _experiment(client: MlflowClient) -> str:
        known = client.get_experiment_by_name("foundry")
        place = (Workspace.current().mlflow_artifacts / "foundry").as_uri()
        return known.experiment_id if known else client.create_experiment("foundry", artifact_location=place)


@pytest.fixture(scope="session")
def foundry(tmp_path_factory: pytest.TempPathFactory) -> Foundry:
    """A corpus, its store, and a model that was trained on it."""
    folder = tmp_path_factory.mktemp("foundry")
    texts = Foundry.sentences(240, 1)
    tokenizer = train_tokenizer(texts, 300)
    store = Foundry.encoded(Foundry.corpus(folder / "text", texts), tokenizer)
    return Foundry(folder, store, tokenizer, Foundry.trained(store, tokenizer))


@pytest.fixture
def model_name(request: pytest.FixtureRequest) -> Iterator[str]:
    """A registered model of the test's own, gone behind it: some are damaged on purpose, and others look at the registry."""
    name = "m-" + "".join(character if character.isalnum() else "-" for character in request.node.name)[-50:].strip("-")
    yield name
    with suppress(MlflowException):
        MlflowClient().delete_registered_model(name)


@pytest.fixture
def ledger(model_name: str) -> Ledger:
    """Of a model with champion 1 and candidate 2, whose files are not needed."""
    prepare_databases(Workspace.current().create())
    client = MlflowClient()
    client.create_registered_model(model_name)
    for alias in ("champion", "candidate"):
        version = client.create_model_version(model_name, "file:///nowhere").version
        client.set_registered_model_alias(model_name, alias, version)
    return Ledger(client, model_name)


def _wait_for_a_person(ledger: Ledger, hours: float = 1.0, **settings: Any) -> Decision:
    stand = {"before": Aliases("1", None, "2"), "after": Aliases("2", "1", None), "deadline": deadline(hours)}
    asked = {"why": "Better.", "when": "w", "who": "gate", "settings": settings, **stand}
    decision = Decision.model_validate({"model": ledger.model, "verdict": "awaiting approval", **asked})
    return record_and_move(MlflowClient(), ledger, decision)


@pytest.fixture
def wait_for_a_person() -> Callable[..., Decision]:
    """Record that version 2 of a `ledger`'s model deserves the championship, if a person agrees in so many hours."""
    return _wait_for_a_person


@pytest.fixture(autouse=True)
def short_race(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speed is measured in the fewest turns: the seconds that it takes otherwise were most of these tests' time."""
    monkeypatch.setattr(measure, "SECONDS", 0.0)


@pytest.fixture
def tried_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates are loaded and generate as always, but in this process: a fresh one takes half a minute on a busy machine."""

    def problem(uri: str, prompt: str) -> str | None:
        try:
            mlflow.pyfunc.load_model(uri).predict(pd.DataFrame({"prompt": [prompt]}))
        except Exception as error:
            return str(error)
        return None

    for place in ("stages", "rollback"):
        monkeypatch.setattr(f"tasks.promotion.{place}.problem_in_fresh_process", problem)
