"""Find the text and fingerprint it."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from configs.schema import DataSettings
from gpt2core.machine.quantities import bytes_text
from gpt2core.store.index import CorpusIndex
from gpt2core.text.documents import SourceFile, find_files
from tasks.terminal.console import say
from tasks.workspace.folders import Workspace


@task(cache_policy=NO_CACHE, persist_result=False)
def load_dataset(settings: DataSettings) -> list[SourceFile]:
    """The corpus's files in a fixed order, each with its size and hash; raises UserError where there is nothing to read."""
    stores = Workspace.current().stores
    stores.mkdir(parents=True, exist_ok=True)
    with CorpusIndex(stores) as index:
        files = find_files(settings, index)
    total = bytes_text(sum(file.n_bytes for file in files))
    say("corpus", f"{len(files):,} file{'s' if len(files) > 1 else ''}, {total}, from {', '.join(settings.source)}")
    return files
