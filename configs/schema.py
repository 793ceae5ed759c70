"""Every setting of a run: its type, its range, its default and what it means.

Sections hold fields only, so the command line can read a part of them as overrides; `RunConfig` adds the checks that
need several fields at once. Nothing here reads a file: see `configs.loading`. What is marked with an `Influence` is no part of
a run's id; all the rest is, where it is not at its default.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, WrapValidator, model_validator

from configs.accepted_values import (
    as_bytes,
    as_delimiter,
    auto_or_switch,
    known_encoding,
    no_float16,
    no_secret_inside,
)
from configs.alerts import AlertSettings
from configs.cluster import ClusterSettings
from configs.evaluation import EvaluateSettings
from configs.influence import Influence
from configs.promotion import PromotionSettings
from configs.retention import RetentionSettings
from configs.schedule import ScheduleSettings
from configs.section import Positive, Section

Address = Annotated[str, AfterValidator(no_secret_inside)]
OneOrMore = Annotated[
    list[Address], Field(min_length=1), BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
LORA = "lora"
LENGTHS = ("steps", "epochs", "tokens", "hours")


class DataSettings(Section):
    """The text to learn from and how it is split."""

    source: Annotated[OneOrMore, Influence.APART] = ["builtin:python-topics"]
    """A file, folder, glob or URL, several of those, dataset:NAME:SPLIT, or builtin:python-topics."""
    validation: Annotated[float, Field(gt=0.0, le=0.5), Influence.APART] = 0.1
    """Share of the text held out for validation, chosen by document hash."""
    validation_source: Annotated[list[Address], Influence.APART] = []
    """Text held out instead of a share of data.source: files, folders, globs or URLs."""
    text_column: Annotated[str | None, Influence.APART] = None
    """Column (CSV, TSV, Parquet, Arrow) or field (JSONL, JSON) that holds the text. Unless given it is found in the first 1,000
    rows: text, content, body and other usual names, else the one with most characters. Lists of texts are joined by line ends;
    chats are read as a line `role: content` for each message."""
    delimiter: Annotated[str | None, AfterValidator(as_delimiter), Influence.APART] = None
    """Character between the cells of CSV and TSV, tab for a tab; found among , ; tab | unless given."""
    encoding: Annotated[str, AfterValidator(known_encoding), Influence.APART] = "utf-8"
    """Encoding of text files, such as latin-1 or utf-16."""
    errors: Annotated[Literal["strict", "replace", "ignore"], Influence.APART] = "strict"
    """Bytes that are not in the encoding: refuse the file, put U+FFFD in their place, or leave them out (both are counted)."""
    newlines: Annotated[Literal["normalize", "keep"], Influence.APART] = "normalize"
    """Whether line ends \\r\\n become \\n."""
    mask_documents: bool = False
    """Keep documents that share a window apart, in training and validation: attention and positions begin anew with each."""
    workers: Annotated[Positive, Influence.NONE] = 1
    """Prefect tasks that share the shards out among them, where cluster.runner says; 1 encodes in the run itself, and its
    tokenizer uses every core already."""
    expanded_limit: Annotated[Positive, Influence.NONE] = 64
    """GiB that one compressed file or archive may expand to."""


class TokenizerSettings(Section):
    """The vocabulary."""

    source: str = "train"
    """'train' makes a byte-level BPE from the corpus, 'base' takes the base model's; else a folder or tokenizer.json. Text that
    changes trains another vocabulary, with which all is encoded anew: name the folder of the first one to keep it."""
    vocab_size: Annotated[int, Field(ge=257, le=1_000_000)] = 2048
    """Entries of a trained vocabulary, the 256 bytes and <|endoftext|> included; 257 means no merges (byte level)."""


class ModelSettings(Section):
    """The network: from scratch by its sizes, or a base model to fine-tune."""

    base: Annotated[str, Influence.APART] = "scratch"
    """'scratch', a folder (OpenAI, Hugging Face or gpt2flow layout), hub:OWNER/NAME, or a registry URI models:/NAME@ALIAS."""
    n_ctx: Positive | None = None
    """Context length in tokens. Required from scratch; with a base model it may only shorten."""
    n_embd: Positive | None = None
    """Width of the residual stream. Required from scratch."""
    n_head: Positive | None = None
    """Attention heads; divides n_embd. Required from scratch."""
    n_layer: Positive | None = None
    """Transformer blocks. Required from scratch."""
    dropout: Fraction = 0.0
    """Dropout on embeddings, attention weights and residual branches while training."""


class LoraSettings(Section):
    """Low-rank adapters, for train.trainable lora."""

    rank: Positive = 8
    """Rows of the adapters' thin matrices; a weight [in, out] gets rank * (in + out) trained numbers."""
    alpha: Annotated[float, Field(gt=0.0)] = 16.0
    """The adapters' product counts alpha / rank times."""
    dropout: Fraction = 0.0
    """Dropout on what goes into the adapters."""
    targets: OneOrMore = ["c_attn", "c_proj", "c_fc"]
    """Projections that get adapters, by the end of their names: c_attn, c_fc, c_proj (both), attn.c_proj, mlp.c_proj."""


class EarlyStopping(Section):
    """Ending a run when the figure that evaluate.best_by names no longer improves."""

    patience: Annotated[int, Field(ge=0)] = 0
    """Evaluations in a row without improvement after which the run is finished; 0 makes all steps."""
    min_delta: Annotated[float, Field(ge=0.0)] = 0.0
    """A figure counts as an improvement where it is better than the best one by more than this."""


class TrainSettings(Section):
    """The optimisation."""

    steps: Annotated[int, Field(ge=0)] = 1000
    """Optimizer updates. Instead of steps the length may be given as epochs, tokens or hours (steps is 0 until it is known)."""
    epochs: Annotated[Annotated[float, Field(gt=0.0)] | None, Influence.SETTLES] = None
    """Length of the run in passes over the training text."""
    tokens: Annotated[Positive | None, Influence.SETTLES] = None
    """Length of the run in tokens trained on."""
    hours: Annotated[Annotated[float, Field(gt=0.0)] | None, Influence.SETTLES] = None
    """Length of the run in hours of training on this machine, by a short trial before it; evaluations come on top, and a run
    that goes on keeps its number of steps."""
    batch_size: Annotated[int, BeforeValidator(lambda value: 0 if value == "auto" else value), Field(ge=0)] = 8
    """Windows of n_ctx tokens in one forward pass. auto (or 0): what fits and makes up tokens_per_step with accumulate."""
    accumulate: Positive = 1
    """Forward passes averaged into one update."""
    tokens_per_step: Annotated[Positive, Influence.SETTLES] = 16384
    """Tokens wanted in one update where batch_size is auto."""
    memory_limit: Annotated[Positive | None, BeforeValidator(as_bytes), Influence.NONE] = None
    """The most memory the process may take, such as 6GB or 800MB: blocks are recomputed, and checkpoints not saved beside
    training, as far as that needs; the weights stay the same. On an accelerator its own memory counts."""
    save_beside: Annotated[bool, Influence.NONE] = True
    """Save checkpoints beside training, from a copy of weights and optimizer state; false saves memory and waits instead."""
    recompute_blocks: Annotated[int, Field(ge=0), Influence.NONE] = 0
    """Blocks that keep no activations and compute them again in backward: less memory, more time, the same weights."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 3e-4
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """Shape of the learning rate after warm-up; wsd (warm-up, stable, decay) stays at the peak and falls at the end."""
    decay_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    """Share of all steps over which wsd falls."""
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    """Steps over which the learning rate rises linearly to its peak."""
    final_learning_rate: Annotated[float, Field(ge=0.0, le=1.0)] = 0.1
    """Learning rate at the last step as a fraction of the peak (cosine, linear and wsd)."""
    trainable: OneOrMore = ["all"]
    """Which parameters change: all, transformer (the blocks alone), lora (adapters beside frozen weights, see train.lora), or
    patterns of parameter names such as h.11.* and ln_f.*. The others have no gradient and are stored once."""
    lora: LoraSettings = LoraSettings()
    optimizer: Literal["adamw", "sgd", "muon"] = "adamw"
    """adamw, sgd, or muon for the blocks' matrices with adamw for the rest (learning rates as for adamw)."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.1
    """Weight decay, applied to matrices only; decoupled with adamw and muon, part of the gradient with sgd."""
    momentum: Fraction | None = None
    """Momentum of sgd (0.9 unless given) and muon (0.95 unless given)."""
    epsilon: Annotated[float, Field(gt=0.0)] = 1e-8
    """AdamW's guard against division by zero, added behind the bias correction (TensorFlow adds it before)."""
    beta1: Fraction = 0.9
    """AdamW's decay of the first moment."""
    beta2: Fraction = 0.95
    """AdamW's decay of the second moment."""
    clip: Annotated[float, Field(ge=0.0)] = 1.0
    """Largest norm of the whole gradient; 0 leaves it as it is."""
    order: Literal["epochs", "random"] = "epochs"
    """How windows are drawn: each once an epoch from a phase that is new in every epoch, or anywhere with replacement."""
    compat: Literal["nshepperd"] | None = None
    """nshepperd: draw windows as nshepperd/gpt-2 does, to compare losses: anywhere within chunks of 50,000 characters."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of initial weights, windows, dropout and noise."""
    noise: Fraction = 0.0
    """Probability with which an input token is replaced by a uniformly random one; what is to be predicted stays as it is."""
    early_stopping: EarlyStopping = EarlyStopping()
    on_divergence: Literal["stop", "skip", "rewind"] = "stop"
    """When loss or gradient are NaN or infinite, the update is not applied. Then: stop; skip it and go on; or rewind to the
    last checkpoint and take other windows for that update, at most 3 times."""
    device: Annotated[str, Influence.NONE] = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    dtype: Annotated[Literal["auto", "float32", "bfloat16"], BeforeValidator(no_float16)] = "auto"
    """In which numbers products are computed; weights and optimizer stay float32. auto: bfloat16 where that is faster."""
    compile: Annotated[Literal["auto"] | bool, WrapValidator(auto_or_switch)] = "auto"
    """Whether the blocks are compiled by torch.compile: faster steps after a first one of up to a minute. auto: on CUDA, in
    runs of 500 batches and more."""
    processes: Annotated[
        int, BeforeValidator(lambda value: 0 if value == "auto" else value), Field(ge=0, le=4096), Influence.NONE
    ] = 0
    """Processes that make each update together, whole batches each, so accumulate should be a multiple. The weights are the
    same, bit for bit, whatever their number, which may change when a run goes on. auto: one a GPU, 1 on the processor."""
    reduce: Literal["exact", "fast"] = "exact"
    """How the gradients of several processes are added. exact: in the order of the batches, so that the weights are the same,
    bit for bit, whatever the number of processes. fast: by the back-end's all-reduce, once an update, in an order that depends
    on their number. Both while backward goes on."""
    shard: Annotated[Literal["none", "optimizer", "model"], Influence.NONE] = "none"
    """What several processes share out instead of each having all: the optimizer's state; or the model, its weights, gradients
    and the optimizer's state. The weights are the same. Each process writes what it keeps of the optimizer's state into the
    checkpoints, which any number of processes reads."""
    process_timeout: Annotated[float, Field(gt=0.0), Influence.NONE] = 600.0
    """Seconds that processes wait for one another in an update, before the one that hangs is named and the run ends."""
    restore_from: Annotated[str, Influence.APART] = "latest"
    """latest: go on where this very run stands. fresh: begin it again, the old one is kept aside. A step, 'best' or a step-N
    folder: begin with weights, optimizer and step of that checkpoint of the latest run of this name. models:/NAME@ALIAS:
    short for model.base and tokenizer.source base, with a new optimizer."""
    checkpoint_every: Annotated[Positive, Influence.NONE] = 500
    """Steps between checkpoints (evaluated steps are checkpointed as well)."""
    keep_checkpoints: Annotated[Positive, Influence.NONE] = 5
    """Newest checkpoints kept."""
    keep_best: Annotated[Positive, Influence.NONE] = 1
    """Best checkpoints by validation loss kept beside them."""
    keep_every_hours: Annotated[float, Field(ge=0.0), Influence.NONE] = 2.0
    """One checkpoint every so many hours is kept for ever; 0 keeps none."""
    keep_weights_history: Annotated[bool, Influence.NONE] = False
    """Of every other checkpoint keep the weights, as a model folder weights-N without the optimizer."""

    @model_validator(mode="before")
    @classmethod
    def _one_length(cls, values: Any) -> Any:
        """One way to say how long is enough; it takes the place of any other that a config below has."""
        given = [name for name in LENGTHS if values.get(name)] if isinstance(values, dict) else []
        if len(given) > 1:
            raise ValueError(f"has both {' and '.join(given)}: give one of steps, epochs, tokens and hours")
        if given and given != ["steps"]:
            return {**values, "steps": 0}
        return {**values, **dict.fromkeys(LENGTHS[1:])} if given else values

    @model_validator(mode="after")
    def _adds_as_it_shares(self) -> Self:
        if self.shard == "model" and self.reduce == "fast":
            raise ValueError("says shard model, which adds gradients exactly, and reduce fast: give one of them")
        return self

    @model_validator(mode="after")
    def _has_a_length(self) -> Self:
        if not (self.steps or self.epochs or self.tokens or self.hours):
            raise ValueError("says 0 steps: give one of steps, epochs, tokens and hours")
        return self

    @property
    def adapts(self) -> bool:
        """Whether adapters are trained beside the model's own, frozen weights."""
        return self.trainable == [LORA]


class RegistrySettings(Section):
    """The model registry."""

    enabled: bool = True
    """Whether the best checkpoint becomes a registered version."""
    model: Name | None = None
    """Registered model's name; the run's name unless given."""
    alias: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")] = "candidate"
    """Alias set on the new version once it has loaded and generated in a fresh process."""
    promote: bool = False
    """Whether the run ends with a promotion: the new version becomes the champion if it deserves it (see promote)."""
    merge: bool = True
    """Whether a LoRA run's adapters are merged into the registered weights; false registers both, as peft reads them."""


class RunSettings(Section):
    """All sections of a run. Every field has a default, so this type also holds a part of a config (overrides)."""

    name: Annotated[Name, Influence.APART] = "gpt2"
    """Name of the run; also the MLflow experiment."""
    data: DataSettings = DataSettings()
    tokenizer: Annotated[TokenizerSettings, Influence.APART] = TokenizerSettings()
    model: ModelSettings = ModelSettings()
    train: TrainSettings = TrainSettings()
    evaluate: Annotated[EvaluateSettings, Influence.NONE] = EvaluateSettings()
    registry: Annotated[RegistrySettings, Influence.NONE] = RegistrySettings()
    promote: Annotated[PromotionSettings, Influence.NONE] = PromotionSettings()
    schedule: Annotated[ScheduleSettings, Influence.NONE] = ScheduleSettings()
    alerts: Annotated[AlertSettings, Influence.NONE] = AlertSettings()
    cluster: Annotated[ClusterSettings, Influence.NONE] = ClusterSettings()
    gc: Annotated[RetentionSettings, Influence.NONE] = RetentionSettings()


class RunConfig(RunSettings):
    """A complete and consistent run."""

    @model_validator(mode="before")
    @classmethod
    def _registry_uri_is_a_base(cls, values: Any) -> Any:
        train = values.get("train") if isinstance(values, dict) else None
        uri = train.get("restore_from") if isinstance(train, dict) else None
        if not isinstance(uri, str) or not uri.startswith("models:/"):
            return values
        model, tokenizer = dict(values.get("model") or {}), dict(values.get("tokenizer") or {})
        return {**values, "model": {**model, "base": uri}, "tokenizer": {**tokenizer, "source": "base"}}

    @model_validator(mode="after")
    def _sizes_are_consistent(self) -> Self:
        sizes = self.model
        if sizes.base == "scratch":
            missing = [k for k in ("n_ctx", "n_embd", "n_head", "n_layer") if getattr(sizes, k) is None]
            if missing:
                raise ValueError(f"model.{missing[0]} is missing: a model from scratch needs n_ctx, n_embd, n_head and n_layer")
            if self.tokenizer.source == "base":
                raise ValueError("tokenizer.source is 'base' but model.base is 'scratch': use 'train' or a tokenizer folder")
        if self.train.compat and self.data.mask_documents:
            raise ValueError(
                "data.mask_documents needs end-of-text ids, which train.compat nshepperd does not have: use one of them"
            )
        if LORA in self.train.trainable and sizes.base == "scratch":
            raise ValueError("train.trainable is 'lora' but model.base is 'scratch': adapters need a trained model, name one")
        if LORA in self.train.trainable and not self.train.adapts:
            raise ValueError("train.trainable lora stands alone: choose adapters, or patterns of the model's own parameters")
        if self.train.lora != LoraSettings() and not self.train.adapts:
            raise ValueError("train.lora is given but no adapters are trained: add train.trainable lora, or leave it out")
        if self.registry.promote and self.registry.alias in ("champion", "previous"):
            raise ValueError(f"registry.alias is '{self.registry.alias}', which only a promotion may set: leave it out")
        if sizes.n_embd and sizes.n_head and sizes.n_embd % sizes.n_head:
            raise ValueError(f"model.n_embd {sizes.n_embd} is not divisible by model.n_head {sizes.n_head}: change one of them")
        return self
