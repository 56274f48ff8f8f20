"""Fine-tune a model on labelled data, as a base for a search."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from rich.progress import Progress
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import get_last_checkpoint, set_seed

from axsearch.errors import UsageError
from axsearch.evaluation.accuracy import predict
from axsearch.models.architectures import architecture_of
from axsearch.models.export_config import keep_origin
from axsearch.options import describes, gather
from axsearch.progress import console, progress_bar
from axsearch.statistics.inference import estimate
from axsearch.statistics.metrics import value
from axsearch.statistics.outcome import Estimate
from axsearch.system.devices import check_device
from axsearch.tasks.data import read_data
from axsearch.tasks.kinds import TaskKind, check_names, resolve_metric
from axsearch.tasks.kinds.labels import LabelHints, Labels, read_mapping
from axsearch.tasks.pretrained import (
    check_vocabulary,
    input_length,
    load_config,
    load_model,
    load_tokenizer,
    on_device,
)
from axsearch.tasks.record import RECORD, learnt_by, length_of
from axsearch.tasks.spec import AS_BEFORE, LEFT_OUT, TaskSpec
from axsearch.tasks.split import Split
from axsearch.tasks.tokens import tokenise, tokens_read, unknown_share
from axsearch.training.long_inputs import (
    InParts,
    attention_dropout,
    check_room,
    in_parts,
    more_positions,
    prepared,
)
from axsearch.training.request import FinetuneRequest

MOST_UNKNOWN = 0.5
"""The share of unknown tokens above which texts and tokenizer cannot belong together."""

LEARNING_RATE = 5e-5
BATCH_SIZE = 32
WARM_UP_SHARE = 0.06


@dataclass(frozen=True)
class FineTuned:
    """A fine-tuned model: its folder, and its metric on the validation split."""

    path: str
    metric: str
    validation: Estimate
    cached: bool


@describes(FinetuneRequest, {})
def finetune(
    model: str,
    data: str,
    out: str,
    *,
    task: str | None = TaskSpec.task,
    metric: str | None = TaskSpec.metric,
    text_columns: Sequence[str] | None = TaskSpec.text_columns,
    label_column: str | None = TaskSpec.label_column,
    labels: Mapping[str, str | int] | Sequence[str] | None = TaskSpec.labels,
    tokenizer: str | None = TaskSpec.tokenizer,
    encoding: str | None = TaskSpec.encoding,
    epochs: int = FinetuneRequest.epochs,
    max_length: int | None = TaskSpec.max_length,
    seed: int = TaskSpec.seed,
    device: str = FinetuneRequest.device,
    force: bool = FinetuneRequest.force,
) -> FineTuned:
    """Train a model for a task and save it with its tokenizer in ``out``.

    The head that the task needs is added. AdamW with linear decay, batches of similar lengths,
    frozen word embeddings, bf16 autocast if the processor has it. A model that has learnt an
    embedding of each position may have a ``max_length`` above them: they are repeated
    (:func:`axsearch.models.positions.with_positions`) and trained. An interrupted run continues
    from its last epoch; a finished one with the same inputs is not repeated.

    Raises:
        UsageError: an argument cannot be used; nothing was trained.
    """
    return train(gather(FinetuneRequest, dict(locals())))


def train(request: FinetuneRequest) -> FineTuned:
    """Do what :func:`finetune` describes; raises UsageError as it does."""
    request.check()
    check_device(request.device)
    lesson = _read(request)
    folder = Path(request.out)
    record = {
        "model": _identity(request.spec.model),
        "train": lesson.train.fingerprint,
        "validation": lesson.validation.fingerprint,
        "labels": list(lesson.labels.names),
        "metric": lesson.metric,
        "epochs": request.epochs,
        "max_length": lesson.max_length,
        "seed": request.spec.seed,
        **({"positions": lesson.positions} if lesson.positions else {}),
        **({"learnt": lesson.learnt} if lesson.learnt else {}),
    }
    key = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:12]
    checkpoints = folder / f"checkpoints-{key}"
    done = _finished(folder, record, begun=checkpoints.is_dir())
    if done is not None:
        return done
    for note in (*lesson.said, *lesson.notes):
        console.print(note, style="dim")
    if lesson.positions:
        console.print(
            f"{request.spec.model} is given {lesson.positions:,} positions: the embeddings of its "
            "own are repeated. Of longer inputs it learns in this training only."
        )
    trained = _trained(request, lesson, checkpoints)
    trained.float().save_pretrained(folder)
    keep_origin(folder, trained, lesson.kind.auto_class.__name__)
    lesson.tokenizer.save_pretrained(folder)
    # Measured as a search will load it: the trained object may still run under autocast.
    saved = on_device(load_model(str(folder), lesson.kind.auto_class), request.device)
    answers = predict(saved, lesson.validation, lesson.kind, device=request.device)
    outcome = lesson.kind.outcome(lesson.metric, lesson.validation, answers)
    result = estimate(outcome, seed=request.spec.seed)
    trivial = value(lesson.kind.trivial_outcome(lesson.metric, lesson.train, lesson.validation))
    if not result.low > trivial:
        console.print(
            f"The model is no better on validation than {lesson.kind.trivial_answer}, which has "
            f"{lesson.metric} {trivial:.4f}: it needs more epochs, more examples or other data.",
            style="yellow",
        )
    # The record is written last: until it exists, the same command continues from the checkpoint.
    partial = folder / f"{RECORD}.partial"
    partial.write_text(json.dumps({**record, "validation_metric": list(result)}, indent=1) + "\n")
    partial.rename(folder / RECORD)
    for old in folder.glob("checkpoints-*"):
        shutil.rmtree(old)
    return FineTuned(request.out, lesson.metric, result, cached=False)


@dataclass(frozen=True)
class _Lesson:
    """What a model is trained on: the splits, and what they are split with.

    ``max_length`` is as it was given or decided, ``positions`` the number that the model is given
    if it has fewer. ``learnt`` is :attr:`axsearch.tasks.data.Data.learnt`; None of data read as
    version 0.1 did.
    """

    kind: TaskKind[Any, Any]
    metric: str
    labels: Labels
    tokenizer: PreTrainedTokenizerBase
    train: Split
    validation: Split
    said: tuple[str, ...]
    notes: tuple[str, ...]
    max_length: int
    positions: int | None
    learnt: str | None


def _read(request: FinetuneRequest) -> _Lesson:
    asked = request.spec
    check_names(asked.task, asked.metric)
    config = load_config(asked.model)
    # A model that version 0.1 fine-tuned is found finished, or gone on with.
    reading = learnt_by(request.out)[0]
    read = read_data(
        asked.data,
        task=asked.task,
        text_columns=asked.text_columns,
        label_column=asked.label_column,
        encoding=asked.encoding,
        reading=AS_BEFORE if reading == AS_BEFORE else LEFT_OUT,
    )
    kind = read.kind
    metric = resolve_metric(kind, asked.task, asked.metric)
    hints = LabelHints(read.classes, read_mapping(asked.labels))
    labels = kind.new_labels(read.train, [*read.validation, *read.test], hints)
    kind.check_labels(labels, metric)
    parts = [
        (part, [one for one in part if kind.is_labelled(one, labels)])
        for part in (read.train, read.validation)
    ]
    left_out = sum(len(part) - len(kept) for part, kept in parts)
    tokenizer = load_tokenizer(asked.model, asked.tokenizer)
    kind.prepare_tokenizer(tokenizer)
    check_vocabulary(asked.model, tokenizer, config)
    positions = more_positions(asked, config)
    limit = asked.max_length or input_length(tokenizer, config)
    length = asked.max_length or length_of(request.out)
    examples = {"train": parts[0][1], "validation": parts[1][1]}
    made = tokenise(kind, tokenizer, examples, labels, limit=limit, asked=length)
    most = architecture_of(config.model_type).longest(config)
    tokenizer.model_max_length = made.length
    train, validation = made.splits["train"], made.splits["validation"]
    unknown = unknown_share(tokenizer, [train])
    if unknown > MOST_UNKNOWN and not request.force:
        raise UsageError(
            f"{unknown:.0%} of the tokens of {asked.data} are unknown to the tokenizer of "
            f"{asked.tokenizer or asked.model}: they do not belong together; name another "
            "`tokenizer`, or `force=True` trains all the same."
        )
    said = (read.said, tokens_read(tokenizer, made), made.note, made.cut.advice(most))
    notes = [*read.notes, *([labels.note] if labels.note else [])]
    if left_out:
        notes.append(f"{left_out} examples have the label -1, no gold label, and are left out.")
    return _Lesson(
        kind,
        metric,
        labels,
        tokenizer,
        train,
        validation,
        tuple(sentence for sentence in said if sentence),
        tuple(notes),
        length or made.length,
        positions,
        None if reading == AS_BEFORE else read.learnt,
    )


def _trained(request: FinetuneRequest, lesson: _Lesson, checkpoints: Path) -> PreTrainedModel:
    """Train, from the last checkpoint where there is one."""
    kind, train = lesson.kind, lesson.train
    longest = int(train.lengths.max())
    left_out = attention_dropout(load_config(request.spec.model), longest)
    set_seed(request.spec.seed)
    model = load_model(
        request.spec.model,
        kind.auto_class,
        new_head=True,
        attention="eager",  # on a CPU its backward pass is faster than SDPA's
        **{**kind.head_config(lesson.labels), **dict.fromkeys(left_out, 0.0)},
    )
    model = prepared(model, longest, lesson.positions)
    model.get_input_embeddings().requires_grad_(False)
    check_room(model, train, request.device)
    trainer = InParts(
        model,
        _arguments(request, checkpoints),
        train_dataset=datasets.Dataset.from_dict(
            {"row": range(len(train)), "length": train.lengths}
        ),
        data_collator=lambda features: in_parts(
            train, [feature["row"] for feature in features], request.device
        ),
        compute_loss_func=lambda outputs, targets, **_: kind.loss(outputs, targets),
    )
    trainer.remove_callback(PrinterCallback)  # it prints to stdout
    console.print(
        f"Fine-tuning {request.spec.model} on {len(train)} examples, {request.epochs} epochs"
    )
    last = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
    with progress_bar() as progress:
        trainer.add_callback(_Shown(progress))
        trainer.train(resume_from_checkpoint=last)
    for name, rate in left_out.items():
        setattr(model.config, name, rate)
    return model


def _arguments(request: FinetuneRequest, checkpoints: Path) -> TrainingArguments:
    return TrainingArguments(
        str(checkpoints),
        num_train_epochs=request.epochs,
        per_device_train_batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        warmup_steps=WARM_UP_SHARE,
        bf16=_bf16(request.device),
        use_cpu=request.device == "cpu",
        train_sampling_strategy="group_by_length",
        remove_unused_columns=False,
        save_strategy="epoch",
        save_total_limit=1,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=request.spec.seed,
    )


class _Shown(TrainerCallback):
    """Training steps on our progress bar."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("Fine-tuning", total=None)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        self._progress.update(self._task, completed=state.global_step, total=state.max_steps)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        if not console.is_terminal:
            console.print(f"epoch {state.epoch:.0f}/{args.num_train_epochs}")


def _identity(model: str) -> str:
    """A hub name, or a hash of a local folder's content, since its name alone means nothing."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return model
    digest = hashlib.sha256()
    for path in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _finished(folder: Path, record: dict[str, object], *, begun: bool) -> FineTuned | None:
    if folder.is_file():
        raise UsageError(f"{folder} is a file; `out` must name a folder.")
    path = folder / RECORD
    if path.is_file():
        try:
            found = json.loads(path.read_text())
            validation = Estimate(*found.pop("validation_metric"))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UsageError(f"{path} is damaged; choose another `out`.") from None
        if not (folder / "model.safetensors").is_file():
            raise UsageError(f"{folder} lacks its model.safetensors; choose another `out`.")
        if found == record:
            return FineTuned(str(folder), str(record["metric"]), validation, cached=True)
        raise UsageError(
            f"{folder} holds a model fine-tuned with other arguments; choose another `out`."
        )
    others = [p for p in folder.glob("*") if not p.name.startswith("checkpoints-")]
    if others and not begun:
        raise UsageError(f"The folder {folder} is not empty; choose another `out`.")
    return None


def _bf16(device: str) -> bool:
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported())
    return device == "cpu" and bool(torch.backends.mkldnn.is_available()) and _cpu_has_bf16()


def _cpu_has_bf16() -> bool:
    # Emulated bf16 is slower than fp32, so only if the processor has instructions for it.
    return bool(
        getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
        or getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    )
