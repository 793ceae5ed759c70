"""Works out what a config leaves to the machine, before the run has an id: length, batch, what is recomputed."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from configs.errors import UserError
from configs.schema import RunConfig
from gpt2core.checkpoints.checkpoint import find_checkpoints
from gpt2core.distributed.processes import choose_processes, processes_here
from gpt2core.machine.devices import choose_device
from gpt2core.machine.memory import available_bytes, naming_lack_of_memory
from gpt2core.machine.quantities import duration, gigabytes
from gpt2core.memory.fit import fit
from gpt2core.memory.plan import Thrift, at_most, foresee, predict, remedy
from gpt2core.memory.trial_run import load_libraries, resident_bytes, seconds_per_update
from gpt2core.memory.workload import Workload
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.optimization.optimizers import Optimization
from gpt2core.optimization.trainable import choose_trainable
from gpt2core.store.token_store import TokenStore
from gpt2core.text.tokenizer import Tokenizer
from gpt2core.training.run_length import steps_of
from gpt2core.weights.model_folder import sizes_of
from tasks.runs.find import all_runs
from tasks.runs.identity import asked_ids, weights_hash
from tasks.runs.run_folder import RunFolder
from tasks.terminal.console import begin, say, warn
from tasks.workspace.folders import Workspace

WHILE_RUNNING = 150_000_000
"""Bytes that a run adds to the process before and between updates: Prefect's engine, MLflow's database, code that evaluates and
reports (measured: 50 to 150 million)."""

LIBRARIES = 1_000_000_000
"""Bytes that this process will surely not come to hold beside tensors and what it holds now."""


@task(cache_policy=NO_CACHE, persist_result=False)
def resolve_settings(config: RunConfig, base: Path | None, tokenizer: Tokenizer, store: TokenStore) -> tuple[RunConfig, str]:
    """The config with length, batch and processes as numbers, obeying memory_limit, and the id of what was asked.

    What a run of the same wishes has found is taken over, so that the same command goes on with the same run. Raises
    UserError where the memory does not suffice.
    """
    config = with_processes(config)
    train = config.train
    if train.steps and train.batch_size and not train.memory_limit:
        return config, ""
    asked, asked_of_0_1 = asked_ids(config, store.hash, weights_hash(base))
    sizes = sizes_of(config.model, base, tokenizer.n_vocab)
    work = workload(config, sizes).with_settings(**_settled_before(asked, asked_of_0_1))
    if work.settings.memory_limit or not work.settings.batch_size:
        work = _fitted(work)
    if not work.settings.steps:
        work = _with_steps(work, store.manifest.counts["train"].tokens // sizes.n_ctx)
    return config.model_copy(update={"train": work.with_length(work.settings.steps).settings}), asked


def check_choices(config: RunConfig, base: Path | None) -> None:
    """Raise UserError for a device, parameters or an optimizer that cannot be: before text is encoded, which may take hours."""
    choose_processes(config.train)
    n_layer = sizes_of(config.model, base, n_vocab=1).n_layer
    smallest = GPT2(GPT2Config(n_vocab=1, n_ctx=1, n_embd=1, n_head=1, n_layer=n_layer))  # with the names of the real one
    train = config.train.model_copy(update={"lora": config.train.lora.model_copy(update={"rank": 1})})
    choose_trainable(smallest, train)
    Optimization(smallest, train)


def with_processes(config: RunConfig) -> RunConfig:
    """The config with the number of processes that it comes to here; raises UserError where they cannot be."""
    return config.model_copy(update={"train": config.train.model_copy(update={"processes": choose_processes(config.train)})})


def workload(config: RunConfig, sizes: GPT2Config) -> Workload:
    """What the config asks for, of a model of these sizes."""
    return Workload(sizes, config.train, choose_device(config.train.device), config.data.mask_documents, config.evaluate)


def process_bytes(work: Workload) -> int:
    """What this process holds beside the model, with the libraries that it will come to use and what a run adds."""
    load_libraries(work.settings, work.device)
    if work.evaluation and work.evaluation.lens:
        import_module("gpt2core.lens.pictures")
    return resident_bytes(work.device) + (WHILE_RUNNING if work.device.type == "cpu" else 0)


def budget_at_hand(work: Workload) -> int:
    """What a process that trains may hold, with one that evaluates: its share of the memory that is there, or the limit."""
    available, sharing = available_bytes(work.device), processes_here(work.settings) if work.device.type == "cpu" else 1
    return min(available // sharing, work.settings.memory_limit or sys.maxsize)


def budget_of(work: Workload, process: int) -> int:
    """What this process may hold: the limit, or all that there is, without what a process that evaluates takes beside it."""
    available = budget_at_hand(work)
    if work.settings.memory_limit or work.evaluation is None or work.evaluation.where != "process":
        return available
    single = work if work.settings.batch_size else work.with_settings(batch_size=1)
    return available - predict(single, process, measured=False).outside


def require_memory(folder: RunFolder, config: RunConfig, base: Path | None, tokenizer: Tokenizer) -> None:
    """Raise UserError where training as configured would need more memory than there is, before any of it is taken.

    Where a rough bound fits easily, nothing is rehearsed. A run that has made updates here is only warned: it may go on in the
    parts that its batches were cut into, and its checkpoints are safe.
    """
    work = workload(config, sizes_of(config.model, base, tokenizer.n_vocab))
    processes = 2 if work.evaluation and work.evaluation.where == "process" else 1
    if resident_bytes(work.device) + processes * (LIBRARIES + at_most(work)) <= budget_at_hand(work):
        return
    process = process_bytes(work)
    budget = budget_of(work, process)
    with naming_lack_of_memory():
        need = foresee(work, process, budget)
    if need.with_spare <= budget:
        return
    sentence = f"Training needs {gigabytes(need.with_spare)} and may use {gigabytes(budget)}"
    record = folder.read_record()
    if (record and record.batch_cuts) or any(checkpoint.step for checkpoint in find_checkpoints(folder.checkpoints)):
        warn("memory", f"{sentence}; it goes on all the same, since it did so before")
        return
    raise UserError(f"{sentence}. {remedy(work, budget, process)}")


def _fitted(work: Workload) -> Workload:
    """The same work with a batch that fits, and with what its limit takes; raises UserError where that cannot be."""
    process = process_bytes(work)
    budget = budget_of(work, process)
    begin("memory", f"looking for the fastest way to stay within {gigabytes(budget)}")
    found = fit(work, budget, process)
    if found.refusal:
        raise UserError(found.refusal)
    settings, n_layer = found.work.settings, work.config.n_layer
    if not work.settings.batch_size:
        say("batch", f"{settings.batch_size} windows of {work.config.n_ctx} tokens, {settings.accumulate} batches a step")
    if found.thrift:
        say("memory", describe_thrift(found.thrift, n_layer))
    return found.work


def _with_steps(work: Workload, windows_per_epoch: int) -> Workload:
    seconds = None
    if work.settings.hours:
        begin("length", "trying out how long an update takes")
        seconds = seconds_per_update(work)
        if seconds is None:
            raise UserError(
                "train.hours needs a trial update, and that does not fit into memory: gpt2flow plan says what fits."
            )
    settled = work.with_length(steps_of(work.settings, work.config.n_ctx, windows_per_epoch, seconds))
    if seconds:
        steps = settled.settings.steps
        say("length", f"an update takes {duration(seconds)}, {steps:,} of them about {duration(seconds * steps)}")
    return settled


def describe_thrift(way: Thrift, n_layer: int) -> str:
    """What staying within a limit takes."""
    recomputed = (
        f"{way.recompute_blocks} of {n_layer} blocks are recomputed" if way.recompute_blocks else "nothing is recomputed"
    )
    waiting = "" if way.saves_beside else ", training waits while a checkpoint is saved"
    return f"{gigabytes(way.need.peak)} at the fullest moment: {recomputed}{waiting}"


def _settled_before(*asked: str) -> dict[str, Any]:
    """Steps and batch of the run that the same wishes led to, if there is one."""
    for run in all_runs(Workspace.current()):
        if run.record.asked in asked:
            return run.record.config.train.model_dump(include={"steps", "batch_size", "accumulate"})
    return {}
