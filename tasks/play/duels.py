"""Champion against candidate, blind: the same prompt and seed for both, on a side by chance, named when the vote is there."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from configs.errors import UserError
from tasks.play.play_request import Choice, DuelRequest
from tasks.registry.lookup import CANDIDATE, CHAMPION, URI, default_model
from tasks.serving.refusal import RefusedRequestError
from tasks.serving.served_model import LoadedModel, ServedModel

Role = Literal["champion", "candidate"]
MOST_OPEN = 1000
"""Duels without a vote that are remembered."""


@dataclass(frozen=True)
class Duel:
    """Two texts that nobody has voted on yet."""

    number: str
    model: str
    champion: str
    candidate: str
    """Both as models:/NAME/VERSION."""
    left: Role
    asked: DuelRequest
    texts: dict[Role, str]

    @property
    def sides(self) -> tuple[str, str]:
        """The texts from left to right."""
        return self.texts[self.left], self.texts[_other(self.left)]

    def preferred(self, choice: Choice) -> Role | Literal["equal"]:
        """Whom a vote is for."""
        return "equal" if choice == "equal" else self.left if choice == "left" else _other(self.left)

    def record(self) -> dict[str, Any]:
        """All of it, for the log."""
        names = {"model": self.model, "champion": self.champion, "candidate": self.candidate, "left": self.left}
        return {"duel": self.number, **names, **self.asked.model_dump(), "texts": dict(self.texts)}


class Arena:
    """The two versions of a registered model, loaded at the first duel, and the duels that wait for a vote."""

    def __init__(self, reference: str | None, weights: str) -> None:
        """The model is the one that `reference` names in the registry, else that of the latest run."""
        match = URI.fullmatch(reference) if reference else None
        self._model = match[1] if match else None
        self._weights = weights
        self._served: dict[Role, ServedModel] = {}
        self._open: dict[str, Duel] = {}
        self._lock = threading.Lock()

    def fight(self, asked: DuelRequest, after_step: Callable[[], None]) -> Duel:
        """Let both write; raises UserError where there are not two versions."""
        model = self._model or default_model()
        champion, candidate = (self._loaded(model, role) for role in (CHAMPION, CANDIDATE))
        if champion.name == candidate.name:
            raise UserError(f"Champion and candidate of {model} are the same version, {champion.name}: train another one.")
        texts: dict[Role, str] = {
            "champion": _text(champion, asked, after_step),
            "candidate": _text(candidate, asked, after_step),
        }
        left: Role = "champion" if secrets.randbits(1) else "candidate"
        duel = Duel(secrets.token_hex(8), model, champion.name, candidate.name, left, asked, texts)
        self.give_back(duel)
        return duel

    def take(self, number: str) -> Duel:
        """A duel, which now has its vote; raises RefusedRequestError where it has one already, or never was."""
        with self._lock:
            duel = self._open.pop(number, None)
        if duel is None:
            sentence = "There is no such duel, or it has its vote: let both write again."
            raise RefusedRequestError(sentence, status=409, parameter="duel")
        return duel

    def give_back(self, duel: Duel) -> None:
        """It waits for a vote; the oldest one is forgotten where too many do."""
        with self._lock:
            self._open[duel.number] = duel
            if len(self._open) > MOST_OPEN:
                del self._open[next(iter(self._open))]

    def _loaded(self, model: str, role: str) -> LoadedModel:
        name: Role = "champion" if role == CHAMPION else "candidate"
        if name not in self._served:
            self._served[name] = ServedModel(f"models:/{model}@{role}", self._weights)
        return self._served[name].current()


def _text(loaded: LoadedModel, asked: DuelRequest, after_step: Callable[[], None]) -> str:
    return next(loaded.complete([asked.prompt], asked.settings(), after_step)).text


def _other(role: Role) -> Role:
    return "candidate" if role == "champion" else "champion"
