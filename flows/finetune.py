"""The main pipeline: load, encode, train, sample and evaluate, register."""

from prefect import flow

from configs.schema import RunConfig
from gpt2core.text.documents import SourceFile
from tasks.encode_to_parquet import encode_to_parquet
from tasks.finetuning.milestones import is_evaluated_at, milestones, stops_early
from tasks.finetuning.open_run import open_run
from tasks.finetuning.result import RunResult, read_result, write_result
from tasks.load_dataset import load_dataset
from tasks.prepare_tokenizer import prepare_tokenizer
from tasks.register_model import register_model
from tasks.resolve_settings import check_choices, require_memory, resolve_settings
from tasks.runs.models import resolve_base
from tasks.runs.start import find_origin, run_folder_of
from tasks.sample_and_evaluate import await_evaluation, make_up_evaluations, sample_and_evaluate
from tasks.scheduling.device_lock import device_for
from tasks.servers.cancellation import cancellable
from tasks.terminal.console import say
from tasks.train_until import train_until
from tasks.write_report import write_report


@flow(flow_run_name="{config.name}", persist_result=False)
def finetune(config: RunConfig) -> RunResult:
    """Fine-tune GPT-2 as the config says. The same config on the same text goes on where it stood, or says it is finished."""
    with cancellable():
        return fine_tune(config)


def fine_tune(config: RunConfig, files: list[SourceFile] | None = None) -> RunResult:
    """The stages of the pipeline, inside whichever flow calls them; one that has loaded the text already gives its files."""
    base = resolve_base(config.model)
    check_choices(config, base)
    files = files or load_dataset(config.data)
    tokenizer = prepare_tokenizer(files, config.data, config.tokenizer, base)
    store = encode_to_parquet(files, config.data, tokenizer)
    with device_for(config):
        config, asked = resolve_settings(config, base, tokenizer, store)

        origin = find_origin(config, store)
        folder = run_folder_of(config, base, store, origin)
        if result := read_result(folder):
            say("run", f"{folder.id} is finished already: nothing to do")
            return result

        require_memory(folder, config, base, tokenizer)
        with open_run(folder, config, base, tokenizer, store, origin, asked) as run:
            make_up_evaluations(run)
            for step in milestones(config, run.trainer.step):
                train_until(run, step)
                if is_evaluated_at(config, folder, step):
                    sample_and_evaluate(run, step)
                    write_report(run.folder)
                if stops_early(config, folder, step):
                    break
            await_evaluation(run)
            run.checkpoints.finish()
            run.checkpoints.prune()
            version = register_model(run)
            result = write_result(run, version)
            write_report(run.folder)
            return result
