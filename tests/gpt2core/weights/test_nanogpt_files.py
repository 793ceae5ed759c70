"""nanoGPT's checkpoints, against files that nanoGPT itself (before 17 May 2023, with GPT-2's GELU) wrote and answered for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.errors import UserError
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.weights.loading import load_model
from gpt2core.weights.model_folder import NanoGPTFile, read_config, recognise
from gpt2core.weights.nanogpt_files import write_nanogpt

SIZES = GPT2Config(n_vocab=64, n_ctx=16, n_embd=16, n_head=2, n_layer=2)


@pytest.fixture
def nanogpt(golden: Path) -> Path:
    return golden / "nanogpt-tiny"


def rewritten(source: Path, target: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    content = torch.load(source, weights_only=True)
    change(content)
    torch.save(content, target)
    return target


@pytest.mark.parametrize(("file", "answer"), [("ckpt.pt", "biases"), ("no-biases.pt", "no_biases")])
def test_logits_are_nanogpts_own_with_biases_and_without(nanogpt: Path, file: str, answer: str) -> None:
    model = load_model(nanogpt / file, tanh_gelu=True)
    recorded = np.load(nanogpt / "logits.npz")
    assert model.config == SIZES
    with torch.no_grad():
        found = model(torch.from_numpy(recorded["tokens"]))
    np.testing.assert_allclose(found.numpy(), recorded[answer], rtol=0, atol=2e-5)


def test_a_checkpoint_that_may_have_the_exact_gelu_is_refused_with_the_way_on(nanogpt: Path) -> None:
    with pytest.raises(UserError, match=r"ckpt.pt does not say that it was trained with GPT-2's GELU.*--tanh_gelu"):
        load_model(nanogpt)
    assert recognise(nanogpt, tanh_gelu=True) == NanoGPTFile(SIZES, nanogpt / "ckpt.pt")


def test_what_is_written_reads_back_bit_for_bit_and_says_its_gelu(tmp_path: Path) -> None:
    model = GPT2(SIZES).initialise(0)
    write_nanogpt(model, tmp_path / "ckpt.pt")
    again = load_model(tmp_path)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters(), strict=True))


def test_what_is_written_has_what_nanogpt_resumes_from(nanogpt: Path, tmp_path: Path) -> None:
    write_nanogpt(load_model(nanogpt, tanh_gelu=True), tmp_path / "ckpt.pt")
    ours, theirs = (torch.load(place / "ckpt.pt", weights_only=True) for place in (tmp_path, nanogpt))
    assert theirs.keys() - ours.keys() == set()
    assert ours["model"].keys() == theirs["model"].keys()
    assert all(torch.equal(ours["model"][name], theirs["model"][name]) for name in ours["model"])
    assert ours["model_args"] == theirs["model_args"]
    groups = [[group["params"] for group in each["optimizer"]["param_groups"]] for each in (ours, theirs)]
    assert groups[0] == groups[1]


def test_padded_rows_stay_so_that_the_probabilities_are_the_same(nanogpt: Path, tmp_path: Path) -> None:
    def pad(content: dict[str, Any]) -> None:
        for name in ("transformer.wte.weight", "lm_head.weight"):
            content["model"][name] = torch.cat([content["model"][name], torch.zeros(64, 16)])
        content["model_args"]["vocab_size"] = 128

    assert load_model(rewritten(nanogpt / "ckpt.pt", tmp_path / "ckpt.pt", pad), tanh_gelu=True).config.n_vocab == 128


def test_old_mask_buffers_are_left_out(nanogpt: Path, tmp_path: Path) -> None:
    mask = {"transformer.h.0.attn.bias": torch.ones(1, 1, 16, 16).tril()}
    file = rewritten(nanogpt / "ckpt.pt", tmp_path / "ckpt.pt", lambda c: c["model"].update(mask))
    assert load_model(file, tanh_gelu=True).config == SIZES


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda c: c["model_args"].update(n_kv_head=1), r"is not of nanoGPT itself \(model_args has n_kv_head\)"),
        (lambda c: c["model_args"].update(vocab_size=None), "gives no whole number for n_vocab"),
        (lambda c: c.pop("model_args"), "is no checkpoint of nanoGPT"),
        (lambda c: c["model"].update({"lm_head.weight": torch.ones(64, 16)}), "has an output head lm_head.weight of its own"),
        (lambda c: c["model"].pop("transformer.h.1.mlp.c_fc.bias"), r"lacks the tensor h.1.mlp.c_fc.bias \(1 in all"),
        (lambda c: c["model"].update({"transformer.h.0.attn.q_norm.weight": torch.ones(8)}), "has the tensor h.0.attn.q_norm"),
        (lambda c: c["model_args"].update(n_layer=10**9), r"asks for .* weights in 1,000,000,000 layers"),
        (lambda c: c.update(model=[1]), "is not a plain table of tensors"),
    ],
)
def test_what_is_not_gpt2_is_refused_by_the_first_difference(
    nanogpt: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], complaint: str
) -> None:
    file = rewritten(nanogpt / "ckpt.pt", tmp_path / "ckpt.pt", change)
    with pytest.raises(UserError, match=complaint):
        load_model(file, tanh_gelu=True)


def test_sizes_are_read_from_a_file_written_here(tmp_path: Path) -> None:
    write_nanogpt(GPT2(SIZES).initialise(0), tmp_path / "ckpt.pt")
    assert read_config(tmp_path) == SIZES
