"""The report on a token store: shown in the terminal, and kept in MLflow with a picture of the document lengths."""

from __future__ import annotations

import json
from dataclasses import asdict
from io import BytesIO
from pathlib import Path

from matplotlib.figure import Figure
from mlflow import MlflowClient
from prefect import task
from prefect.cache_policies import NO_CACHE
from rich.markup import escape
from rich.table import Table

from configs.schema import RunConfig
from gpt2core.machine.quantities import bytes_text, duration
from gpt2core.memory.fit import fit, seconds_where_it_fits
from gpt2core.model.config import GPT2Config
from gpt2core.store.report import OVERLAP, CorpusReport, report_on
from gpt2core.store.token_store import TokenStore
from gpt2core.weights.model_folder import sizes_of
from tasks.resolve_settings import budget_of, process_bytes, with_processes, workload
from tasks.terminal.console import begin, console, say
from tasks.tracking.mlflow_mirror import create_experiment

BAR = 40
EXPERIMENT = "data"


@task(cache_policy=NO_CACHE, persist_result=False)
def report_data(store: TokenStore, config: RunConfig, base: Path | None) -> CorpusReport:
    """Report on the store: print it, and keep it in MLflow's experiment `data`, one run a store."""
    sizes = sizes_of(config.model, base, config.tokenizer.vocab_size)
    report = report_on(store, sizes.n_ctx)
    print_report(report, store, sizes.n_ctx)
    keep_report(report, store)
    return report


def print_report(report: CorpusReport, store: TokenStore, n_ctx: int) -> None:
    """Print the figures, then a bar for each class of document length."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 1))
    for name, text in _lines(report, store, n_ctx):
        table.add_row(f"[bold]{name}[/]", text)
    console.print(table)
    console.print("\n [bold]documents by length in tokens[/]")
    most = max(report.length_counts)
    for edge, count in zip(report.length_edges, report.length_counts, strict=True):
        if count:
            console.print(f" {edge:>10,} … {'█' * max(1, round(BAR * count / most)):<{BAR}} {count:,}")


def print_epoch(config: RunConfig, base: Path | None, tokens: int, price: float | None) -> None:
    """Print how long an epoch takes here, and what it costs at a `price` per hour."""
    sizes = sizes_of(config.model, base, config.tokenizer.vocab_size)
    begin("one epoch", "trying out how long an update takes")
    seconds = epoch_seconds(config, sizes, tokens)
    if seconds is None:
        say("one epoch", "is not known: updates do not fit into memory here (gpt2flow plan says what fits)")
        return
    cost = f", {price * seconds / 3600:,.2f} at {price:g} an hour" if price is not None else ""
    say("one epoch", f"about {duration(seconds)} on this machine{cost}")


def keep_report(report: CorpusReport, store: TokenStore) -> None:
    """Write the report and the picture to MLflow, once for each store."""
    client = MlflowClient()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    identity = experiment.experiment_id if experiment else create_experiment(client, EXPERIMENT)
    if client.search_runs([identity], f"tags.store = '{store.hash}'", max_results=1):
        return
    run = client.create_run(identity, tags={"store": store.hash}, run_name=f"store {store.hash[:8]}").info.run_id
    client.log_text(run, json.dumps(asdict(report), indent=1), "report.json")
    with BytesIO() as picture:
        length_figure(report).savefig(picture, format="png", dpi=120)
        picture.seek(0)
        from PIL import Image

        client.log_image(run, Image.open(picture), artifact_file="document-lengths.png")
    client.set_terminated(run)


def length_figure(report: CorpusReport) -> Figure:
    """Histogram of the document lengths, drawn without a display."""
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(len(report.length_edges)), report.length_counts, color="#3b6ea5")
    axes.set_xticks(range(len(report.length_edges)), [f"{edge:,}" for edge in report.length_edges], rotation=60, fontsize=8)
    axes.set_xlabel("tokens in a document, from")
    axes.set_ylabel("documents")
    return figure


def epoch_seconds(config: RunConfig, sizes: GPT2Config, tokens: int) -> float | None:
    """Seconds to train so many tokens once, from trial updates as `gpt2flow plan` makes them; None where they do not fit."""
    work = workload(with_processes(config), sizes)
    process = process_bytes(work)
    budget = budget_of(work, process)
    work = fit(work, budget, process, tried_out=False).work
    seconds = seconds_where_it_fits(work, budget, process)
    return seconds and seconds * tokens / (work.settings.batch_size * work.settings.accumulate * sizes.n_ctx)


def _lines(report: CorpusReport, store: TokenStore, n_ctx: int) -> list[tuple[str, str]]:
    def both(counts: dict[str, int]) -> str:
        return f"{sum(counts.values()):,} ({counts['train']:,} for training, {counts['validation']:,} for validation)"

    letters = sum(report.scripts.values()) or 1
    scripts = sorted(report.scripts.items(), key=lambda item: -item[1])[:6]
    return [
        ("store", str(store.path)),
        ("documents", both(report.documents)),
        ("bytes", f"{both(report.bytes)}, {bytes_text(sum(report.bytes.values()))}"),
        ("tokens", f"{both(report.tokens)}, {report.tokens_per_byte:.3f} a byte"),
        ("dropped", ", ".join(f"{count:,} {reason}" for reason, count in report.dropped.items())),
        *[("read", escape(note)) for note in report.notes],
        *[("[yellow]warning[/]", escape(warning)) for warning in report.warnings],
        ("near-duplicates", f"{report.near_duplicates:,} of {report.compared:,} documents compared"),
        ("decode errors", f"{report.decode_errors:,}"),
        ("longest line", f"{report.longest_line:,} characters"),
        ("scripts", ", ".join(f"{name} {count / letters:.1%}" for name, count in scripts)),
        (f"under {n_ctx:,}", f"{report.shorter_than_block:,} documents are shorter than a block"),
        (
            "leaks",
            f"{report.shared_hashes:,} texts in both splits; {report.overlapping:.2%} of {report.probes:,} held-out "
            f"passages of {OVERLAP} tokens stand in the training text",
        ),
    ]
