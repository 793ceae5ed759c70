"""The main pipeline: load, encode, train, sample and evaluate, register, and promote where that is asked for."""

from prefect import flow

from configs.schema import RunConfig
from flows.promote import promote
from gpt2core.text.documents import SourceFile
from tasks.alerts.announcer import telling_of_failure
from tasks.encode_to_parquet import encode_to_parquet
from tasks.finetuning.milestones import is_evaluated_at, milestones, stops_early
from tasks.finetuning.open_run import open_run
from tasks.finetuning.result import RunResult, after_promotion, read_result, write_result
from tasks.load_dataset import load_dataset
from tasks.prepare_tokenizer import prepare_tokenizer
from tasks.register_model import register_model
from tasks.resolve_settings import check_choices, require_memory, resolve_settings
from tasks.runs.models import resolve_base
from tasks.runs.pinned_base import find_base, pin_base, stay_with_base
from tasks.runs.start import find_origin, run_folder_of
from tasks.sample_and_evaluate import await_evaluation, make_up_evaluations, sample_and_evaluate
from tasks.scheduling.device_lock import device_for
from tasks.servers.cancellation import cancellable
from tasks.terminal.console import say
from tasks.train_until import train_until
from tasks.write_report import write_report


@flow(flow_run_name="{config.name}", persist_result=False)
def finetune(config: RunConfig) -> RunResult:
    """Fine-tune GPT-2 as the config says. The same config on the same text goes on where it stood, or says it is finished.

    With registry.promote the registered version then meets its champion.
    """
    with cancellable(), telling_of_failure(config.alerts, config.name):
        return promoted(fine_tune(config), config)


def promoted(result: RunResult, config: RunConfig) -> RunResult:
    """The result after the registered version has met its champion, where the config asks for that."""
    if not config.registry.promote or result.version is None:
        return result
    return after_promotion(result, promote(result.model, result.version, config.promote))


def fine_tune(asked: RunConfig, files: list[SourceFile] | None = None) -> RunResult:
    """The stages of the pipeline, inside whichever flow calls them; one that has loaded the text already gives its files."""
    config = pin_base(asked)
    base = find_base(config)
    check_choices(config, base)
    files = files or load_dataset(config.data)
    tokenizer = prepare_tokenizer(files, config.data, config.tokenizer, base)
    store = encode_to_parquet(files, config.data, tokenizer, config.cluster)
    if (staying := stay_with_base(asked, config, store)) != config:
        config, base = staying, resolve_base(staying.model)
    with device_for(config):
        config, asked_id = resolve_settings(config, base, tokenizer, store)

        origin = find_origin(config, store)
        folder = run_folder_of(config, base, store, origin)
        if (result := read_result(folder)) and (result.version or not config.registry.enabled):
            say("run", f"{folder.id} is finished already: nothing to do")
            return result

        require_memory(folder, config, base, tokenizer)
        with open_run(folder, config, base, tokenizer, store, origin, asked_id) as run:
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
