"""What a run will take, worked out before it: memory, batch, disk, time, money. Nothing of the model's size is allocated."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from configs.errors import UserError
from configs.schema import RunConfig
from gpt2core.distributed.processes import idle_processes
from gpt2core.machine.devices import accelerator_name
from gpt2core.machine.dtypes import choose_dtype
from gpt2core.machine.quantities import gigabytes
from gpt2core.memory.fit import fit, seconds_where_it_fits
from gpt2core.memory.plan import Need, largest_batch, predict, remedy, thriftiest
from gpt2core.memory.workload import Workload
from gpt2core.model.config import RELEASED_SIZES, GPT2Config
from gpt2core.store.encoding import name_of_store
from gpt2core.store.token_store import open_store
from gpt2core.text.tokenizer import load_tokenizer
from gpt2core.training.run_length import RunLength, length_of
from gpt2core.weights.model_folder import is_model_path, sizes_of
from tasks.load_dataset import load_dataset
from tasks.prepare_tokenizer import known_tokenizer
from tasks.resolve_settings import budget_of, process_bytes, with_processes, workload
from tasks.runs.models import resolve_base
from tasks.workspace.folders import Workspace

HUB_NAMES = {"gpt2": "124M", "gpt2-medium": "355M", "gpt2-large": "774M", "gpt2-xl": "1558M"}


@dataclass(frozen=True)
class RunPlan:
    """Everything the page shows. What could not be known is None, and `notes` say why in sentences."""

    name: str
    work: Workload
    place: str
    dtype: str
    need: Need
    budget: int
    thriftiest: int
    largest_batch: int
    proposal: tuple[int, int] | None
    remedy: str
    """What to change where it does not fit."""
    recompute_blocks: int
    checkpoint: int
    checkpoints: int
    free_disk: int
    seconds: float | None
    length: RunLength
    notes: list[str]

    @property
    def fits(self) -> bool:
        """Whether training as configured stays within the memory that there is."""
        return self.need.with_spare <= self.budget


def plan_run(config: RunConfig) -> RunPlan:
    """Plan a run; takes seconds, for the largest models a minute. Raises UserError where the config cannot be worked out."""
    config, notes = with_processes(config), list[str]()
    sizes, windows = _sizes(config, notes), _windows_per_epoch(config, notes)
    work = workload(config, sizes)
    process = process_bytes(work)
    budget = budget_of(work, process)
    most = largest_batch(work.with_settings(batch_size=1, accumulate=1), budget, process)
    automatic = fit(work.with_settings(batch_size=0, memory_limit=None), budget, process, tried_out=False).work.settings
    found = fit(work, budget, process, tried_out=False)
    work = found.work
    if found.refusal and config.train.memory_limit:
        notes.insert(0, found.refusal)
    seconds = seconds_where_it_fits(work, budget, process)
    need = predict(work, process, work.settings.save_beside, measured=seconds is not None)
    if seconds is None:
        notes.append("The time of an update is not known: there is too little memory to try one out.")
    processes = work.settings.processes
    if processes > 1 and seconds is not None:
        notes.append("The time of a step is that of one process, which several shorten.")
    notes += filter(None, [idle_processes(processes, work.settings)])
    length = length_of(work.settings, sizes.n_ctx, windows, seconds)
    if not length.steps:
        notes.append("The number of steps is not known yet: run gpt2flow encode with the same config first.")
    return RunPlan(
        name=config.name,
        work=work,
        place=accelerator_name() or "processor" if work.device.type != "cpu" else "processor",
        dtype=str(choose_dtype(work.settings.dtype, work.device, sizes.n_embd)).removeprefix("torch."),
        need=need,
        budget=budget,
        thriftiest=thriftiest(work, process, measured=False).with_spare,
        largest_batch=most,
        proposal=(automatic.batch_size, automatic.accumulate) if most else None,
        remedy="" if need.with_spare <= budget else remedy(work, budget, process),
        recompute_blocks=work.settings.recompute_blocks,
        checkpoint=need.footprint.snapshot,
        checkpoints=_checkpoints_kept(config, length.steps),
        free_disk=shutil.disk_usage(_existing(Workspace.current().root)).free,
        seconds=seconds,
        length=length,
        notes=notes,
    )


def _sizes(config: RunConfig, notes: list[str]) -> GPT2Config:
    """Sizes of the model; those of a released one are known even where its weights are not there yet."""
    base, settings = config.model.base, config.model
    if base != "scratch" and not base.startswith("models:/") and not is_model_path(base):
        name = re.split(r"[/:]", base.rstrip("/"))[-1]
        if released := RELEASED_SIZES.get(HUB_NAMES.get(name, name)):
            if not base.startswith("hub:"):
                notes.append(f"The base model {base} is not there; the plan is for the released {HUB_NAMES.get(name, name)}.")
            return replace(released, n_ctx=settings.n_ctx or released.n_ctx, dropout=settings.dropout)
    return sizes_of(settings, resolve_base(settings), _n_vocab(config))


def _n_vocab(config: RunConfig) -> int:
    """Entries of the vocabulary, which a base model knows itself."""
    source = config.tokenizer.source
    return config.tokenizer.vocab_size if source in ("train", "base") else load_tokenizer(Path(source)).n_vocab


def _windows_per_epoch(config: RunConfig, notes: list[str]) -> int | None:
    """Training windows of the text, where it is encoded already; nothing is fetched and no vocabulary trained for it."""
    try:
        if config.model.base.startswith("hub:"):
            raise UserError("the vocabulary comes with the base model, which a plan does not fetch.")
        files, base = load_dataset.fn(config.data), resolve_base(config.model)
        tokenizer = known_tokenizer(files, config.data, config.tokenizer, base)
        store = tokenizer and Workspace.current().stores / name_of_store(files, config.data, tokenizer)
        if not tokenizer or not store or not store.is_dir():
            raise UserError("the text is not encoded yet (gpt2flow encode with the same config).")
        n_ctx = config.model.n_ctx or sizes_of(config.model, base, tokenizer.n_vocab).n_ctx
        return open_store(store, verify=False).manifest.counts["train"].tokens // n_ctx
    except UserError as error:
        notes.append(f"Epochs are not known: {error}")
    return None


def _checkpoints_kept(config: RunConfig, steps: int) -> int:
    """At most; one that is being written counts, those kept for ever by the hour do not."""
    train = config.train
    made = steps // min(train.checkpoint_every, config.evaluate.every) + 1
    return min(train.keep_checkpoints + train.keep_best + 1, made)


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def sentences(plan: RunPlan) -> Iterator[str]:
    """What a reader should do about it."""
    disk = plan.checkpoint * plan.checkpoints
    if not plan.fits and not plan.work.settings.memory_limit:  # a limit that is too low has a sentence of its own
        needs, has = gigabytes(plan.need.with_spare), gigabytes(plan.budget)
        yield f"It does not fit: training needs {needs} and may use {has}. {plan.remedy}"
    if disk > plan.free_disk:
        lacking = gigabytes(disk - plan.free_disk)
        yield f"The disk lacks {lacking} for the checkpoints: free some space, or lower train.keep_checkpoints."
    yield from plan.notes
