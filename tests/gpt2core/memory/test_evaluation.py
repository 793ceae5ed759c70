"""An evaluation takes no more memory than training did, or that is foreseen: measured in processes that train and evaluate."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from configs.evaluation import EvaluateSettings
from configs.schema import TrainSettings
from gpt2core.memory.dry_run import rehearse
from gpt2core.memory.evaluation import evaluation_bytes, samples_at_once
from gpt2core.memory.plan import predict
from gpt2core.memory.workload import Workload
from gpt2core.model.config import GPT2Config

CPU = torch.device("cpu")
CODE = 30_000_000
"""What the code of an evaluation takes when it is first run; in a run it is there from step 0 on."""
CONFIG = GPT2Config(257, 256, 128, 4, 6)
EVALUATION = EvaluateSettings(prompts=["The "] * 8, max_new_tokens=300, lens_prompts=["word " * 60])
TRAIN_AND_EVALUATE = """
import json, sys
import numpy as np, torch
from configs.evaluation import EvaluateSettings
from configs.generation import CompletionSettings
from configs.schema import TrainSettings
from gpt2core.generation.completion import complete
from gpt2core.model.config import GPT2Config
from gpt2core.store.document_stream import DocumentStream
from gpt2core.evaluation.held_out import evaluate
from gpt2core.memory.evaluation import samples_at_once
from gpt2core.lens.reading import read_lens_greedily
from gpt2core.memory.trial_run import load_libraries, make_trainer, peak_bytes, resident_bytes
from gpt2core.store.token_store import TokenStream
from gpt2core.text.tokenizer import load_tokenizer

cpu = torch.device("cpu")
sizes, train, asked, vocabulary = json.loads(sys.stdin.read())
config, settings = GPT2Config(**sizes), TrainSettings.model_validate(train)
asked, tokenizer = EvaluateSettings.model_validate(asked), load_tokenizer(vocabulary)
load_libraries(settings, cpu)
before = resident_bytes(cpu)
trainer = make_trainer(config, settings, cpu)
trainer.run_until(3)
peaks = [peak_bytes(cpu) - before]
tokens = np.random.default_rng(0).integers(0, 257, 2000).astype(np.uint16)
text = DocumentStream(TokenStream([tokens]), np.arange(1), ["a"], np.array([0]), np.ones(257, dtype=np.int64))
evaluate(trainer.computing_model(), text, settings.batch_size)
together = samples_at_once(config, settings, asked)
drawn = CompletionSettings(max_new_tokens=asked.max_new_tokens, batch_size=together, min_new_tokens=asked.max_new_tokens)
assert len(list(complete(trainer.model, tokenizer, asked.prompts, drawn))) == len(asked.prompts)
read_lens_greedily(trainer.model, tokenizer, asked.lens_prompts[0], asked.lens_tokens)
print(json.dumps([*peaks, peak_bytes(cpu) - before]))
"""


def workload(**settings: object) -> Workload:
    values = {"steps": 3, "batch_size": 4, "dtype": "bfloat16", **settings}
    return Workload(CONFIG, TrainSettings.model_validate(values), CPU, evaluation=EVALUATION)


def measured(work: Workload, golden: Path) -> tuple[int, int]:
    """Bytes that a process has taken at most when it has trained, and when it has evaluated too."""
    assert work.evaluation
    vocabulary = str(golden / "openai-tiny" / "models" / "tiny")
    job = [work.config.__dict__, work.settings.model_dump(exclude={"epochs", "tokens", "hours"}), work.evaluation.model_dump()]
    command = [sys.executable, "-c", TRAIN_AND_EVALUATE]
    done = subprocess.run(command, input=json.dumps([*job, vocabulary]), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    trained, evaluated = json.loads(done.stdout)
    return trained, evaluated


def test_an_evaluation_takes_no_more_than_training_did(golden: Path) -> None:
    work = workload(batch_size=32)
    assert evaluation_bytes(work) < rehearse(work).peak - rehearse(work).standing
    trained, evaluated = measured(work, golden)
    assert evaluated <= 1.1 * trained


@pytest.mark.slow
def test_an_evaluation_that_takes_more_than_training_is_foreseen(golden: Path) -> None:
    """Where next to nothing is trained, nothing is kept either, while the lens looks at a long text in every block."""
    asked = EvaluateSettings(prompts=["The "], max_new_tokens=20, lens_prompts=["word " * 200])
    work = workload(batch_size=1, recompute_blocks=7, trainable=["ln_f.*"], optimizer="sgd")
    work = replace(work, config=GPT2Config(257, 1024, 256, 4, 8), evaluation=asked)
    need = predict(work, 0, saves_beside=False)
    assert need.tensors > 2 * need.footprint.peak
    trained, evaluated = measured(work, golden)
    assert 1.5 * trained < evaluated <= need.with_spare + CODE
    assert need.peak < 2 * evaluated


def test_what_is_evaluated_at_once_follows_what_an_update_keeps() -> None:
    plain, thrifty, small = workload(), workload(recompute_blocks=6), workload(batch_size=1, recompute_blocks=6)
    together = [samples_at_once(CONFIG, work.settings, EVALUATION) for work in (plain, thrifty, small)]
    assert together == [8, 1, 1]
    keys_and_values = 8 * CONFIG.n_layer * CONFIG.n_embd * CONFIG.n_ctx  # of one sample, float32
    assert together[0] * keys_and_values <= rehearse(plain).activations
    assert evaluation_bytes(workload(batch_size=64)) > 10 * evaluation_bytes(replace(plain, evaluation=None))
    assert evaluation_bytes(replace(plain, evaluation=None)) == 0
