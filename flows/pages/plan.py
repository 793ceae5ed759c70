"""The page of `gpt2flow plan`."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from gpt2core.distributed.processes import describe_shares
from gpt2core.machine.quantities import bytes_text, duration, gigabytes
from gpt2core.memory.trial_run import is_small
from tasks.plan_run import RunPlan, sentences


def print_plan(console: Console, plan: RunPlan, price_per_hour: float | None) -> None:
    """Print what a run takes, and in sentences what does not fit or is not known."""
    table = Table(box=None, padding=(0, 3, 0, 0), show_header=False)
    table.add_column(style="bold", no_wrap=True)
    for row in [*_model_rows(plan), *_memory_rows(plan), *_batch_rows(plan), *_run_rows(plan, price_per_hour)]:
        table.add_row(*row)
    console.print(table)
    for sentence in sentences(plan):
        console.print(f" [yellow]![/] {sentence}", soft_wrap=True)
    if plan.fits:
        console.print(" [green]✓[/] It fits.")


def _model_rows(plan: RunPlan) -> list[tuple[str, str]]:
    size, found = plan.work.config, plan.need.footprint
    shape = f"{size.n_layer} blocks of width {size.n_embd}, {size.n_head} heads"
    shape += f", context {size.n_ctx:,}, vocabulary {size.n_vocab:,}"
    trained = "" if found.trained == found.parameters else f", {found.trained:,} of them trained"
    return [
        ("model", shape),
        ("parameters", f"{found.parameters:,}{trained}"),
        ("computes", f"on the {plan.place} in {plan.dtype}"),
    ]


def _memory_rows(plan: RunPlan) -> list[tuple[str, str]]:
    found, need, train = plan.need.footprint, plan.need, plan.work.settings
    logits = max(0, found.peak - found.weights - found.optimizer - found.activations - found.gradients)
    recomputed = f", {train.recompute_blocks} of {plan.work.config.n_layer} blocks recomputed" if train.recompute_blocks else ""
    rows = [
        ("weights", f"{bytes_text(found.weights)}, the copy that computes included"),
        ("gradients", bytes_text(found.gradients)),
        ("optimizer", bytes_text(found.optimizer)),
        (
            "activations",
            f"{bytes_text(found.activations)} for {train.batch_size} x {plan.work.config.n_ctx:,} tokens{recomputed}",
        ),
        ("logits", f"{bytes_text(logits)}, a part of the batch at a time, and other passing results"),
        ("program", f"{bytes_text(need.process)} before the model, {bytes_text(need.extra)} inside the libraries"),
        (
            "checkpoints",
            f"{bytes_text(found.snapshot)} copied while one is saved" if need.saves_beside else "saved without a copy",
        ),
    ]
    evaluation = f"{bytes_text(need.evaluation)} where an update takes {bytes_text(found.peak - found.standing)}"
    if plan.work.evaluation and plan.work.evaluation.where == "process":
        evaluation += f"; {gigabytes(need.outside)} in a process of its own"
    return [
        *rows,
        ("evaluation", evaluation),
        ("memory", f"{gigabytes(need.peak)} at the fullest moment, {gigabytes(plan.budget)} may be used"),
    ]


def _batch_rows(plan: RunPlan) -> list[tuple[str, str]]:
    train, n_ctx = plan.work.settings, plan.work.config.n_ctx
    tokens = train.batch_size * train.accumulate * n_ctx
    rows = [
        ("batch", f"{train.batch_size} x {train.accumulate} windows a step, {tokens:,} tokens"),
        ("largest batch", f"{plan.largest_batch:,} windows" if plan.largest_batch else "none fits"),
    ]
    if train.processes > 1:
        rows.append(("processes", f"{describe_shares(train.processes, train)}; the memory is that of one of them"))
    if plan.proposal:
        size, parts = plan.proposal
        rows.append(("auto would take", f"{size} x {parts} windows for {train.tokens_per_step:,} tokens a step"))
    return rows


def _run_rows(plan: RunPlan, price_per_hour: float | None) -> list[tuple[str, str]]:
    rows = [
        ("run", str(plan.length) if plan.length.steps else "not known yet"),
        ("checkpoint", f"{bytes_text(plan.checkpoint)} each"),
        (
            "disk",
            f"up to {bytes_text(plan.checkpoint * plan.checkpoints)} for {plan.checkpoints}, {bytes_text(plan.free_disk)} free",
        ),
    ]
    if plan.seconds is not None:
        tried = "trial updates" if is_small(plan.work) else "trial updates of two and four blocks"
        rows.append(("a step takes", f"{duration(plan.seconds)}, from {tried}"))
    if price_per_hour is not None and plan.length.hours:
        rows.append(("cost", f"{plan.length.hours * price_per_hour:,.2f} at {price_per_hour:g} an hour"))
    return rows
