"""Fine-tune a model on labelled text, so that there is a base to search from."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import torch
from rich.progress import Progress
from transformers import (
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import get_last_checkpoint, set_seed

from axsearch.data import LabelledData, LabelledText, read_data
from axsearch.errors import UsageError
from axsearch.evaluation.accuracy import predict
from axsearch.metrics import Estimate, estimate
from axsearch.progress import console, progress_bar
from axsearch.task import (
    Split,
    check_device,
    encode,
    input_length,
    load_config,
    load_model,
    load_tokenizer,
    on_device,
    resolve_metric,
)

RECORD = "finetune.json"
LEARNING_RATE = 5e-5
BATCH_SIZE = 32
WARM_UP_SHARE = 0.06


@dataclass(frozen=True)
class FineTuned:
    """A fine-tuned model: where it is, and its metric on the validation split."""

    path: str
    metric: str
    validation: Estimate
    cached: bool


def finetune(
    model: str,
    data: str,
    out: str,
    *,
    task: str | None = None,
    metric: str | None = None,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    epochs: int = 3,
    max_length: int = 128,
    seed: int = 0,
    device: str = "cpu",
) -> FineTuned:
    """Train a classifier and save it with its tokenizer in ``out``.

    AdamW with linear decay, length-bucketed batches, embeddings frozen, bf16 autocast where the
    processor has it. An interrupted run goes on from its last epoch; a finished one with the same
    inputs is not run again.

    Raises:
        UsageError: something given cannot be used; no training was done.
    """
    if epochs < 1 or max_length < 8:
        raise UsageError("--epochs must be at least 1 and --max-length at least 8.")
    check_device(device)
    metric = resolve_metric(task, metric)
    config = load_config(model)
    read = read_data(data, text_columns=text_columns, label_column=label_column)
    names = _label_names(read)
    tokenizer = load_tokenizer(model)
    tokenizer.model_max_length = min(max_length, input_length(tokenizer, config))
    train = _split("train", read.train, names, tokenizer)
    validation = _split("validation", read.validation, names, tokenizer)
    folder = Path(out)
    record = {
        "model": _identity(model),
        "train": train.fingerprint,
        "validation": validation.fingerprint,
        "labels": names,
        "metric": metric,
        "epochs": epochs,
        "max_length": max_length,
        "seed": seed,
    }
    key = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:12]
    checkpoints = folder / f"checkpoints-{key}"
    done = _finished(folder, record, begun=checkpoints.is_dir())
    if done is not None:
        return done
    for note in read.notes:
        console.print(note, style="dim")

    set_seed(seed)
    trained = load_model(
        model,
        new_head=True,
        attention="eager",  # on a CPU its backward pass is faster than SDPA's
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )
    trained.get_input_embeddings().requires_grad_(False)
    arguments = TrainingArguments(
        str(checkpoints),
        num_train_epochs=epochs,
        per_device_train_batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        warmup_steps=WARM_UP_SHARE,
        bf16=_bf16(device),
        use_cpu=device == "cpu",
        train_sampling_strategy="group_by_length",
        save_strategy="epoch",
        save_total_limit=1,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=seed,
    )
    rows = [
        {**example, "labels": int(label)}
        for example, label in zip(train.inputs, train.labels, strict=True)
    ]
    trainer = Trainer(
        trained,
        arguments,
        train_dataset=datasets.Dataset.from_list(rows),
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    trainer.remove_callback(PrinterCallback)  # it prints to stdout
    console.print(f"Fine-tuning {model} on {len(train)} examples, {epochs} epochs")
    last = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
    with progress_bar() as progress:
        trainer.add_callback(_Shown(progress))
        trainer.train(resume_from_checkpoint=last)
    trained.float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # Measured as a search will find it: the trained object may still run under autocast.
    saved = on_device(load_model(str(folder)), device)
    predicted = predict(saved, validation, device=device)
    result = estimate(metric, validation.labels, predicted, seed=seed)
    # The record comes last: until it is there, the same command goes on from the checkpoint.
    partial = folder / f"{RECORD}.partial"
    partial.write_text(json.dumps({**record, "validation_metric": list(result)}, indent=1) + "\n")
    partial.rename(folder / RECORD)
    for old in folder.glob("checkpoints-*"):
        shutil.rmtree(old)
    return FineTuned(out, metric, result, cached=False)


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


def _label_names(read: LabelledData) -> list[str]:
    names = sorted(
        set(read.train.labels), key=lambda name: (len(name) if name.isdigit() else 0, name)
    )
    for split in (read.validation, read.test):
        unknown = sorted(set(split.labels) - set(names))
        if unknown:
            raise UsageError(f"Label {unknown[0]!r} is in validation or test but not in train.")
    return names


def _split(
    name: str, part: LabelledText, names: list[str], tokenizer: PreTrainedTokenizerBase
) -> Split:
    ids = {label: index for index, label in enumerate(names)}
    labels = np.array([ids[label] for label in part.labels])
    inputs = encode(tokenizer, part.texts, tokenizer.model_max_length)
    return Split(name, inputs, labels, tokenizer.pad_token_id or 0)


def _identity(model: str) -> str:
    """A hub name, or a hash of what is in a local folder: its name alone says nothing."""
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
        raise UsageError(f"{folder} is a file; --out names a folder.")
    path = folder / RECORD
    if path.is_file():
        try:
            found = json.loads(path.read_text())
            validation = Estimate(*found.pop("validation_metric"))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UsageError(f"{path} is damaged; give another --out.") from None
        if not (folder / "model.safetensors").is_file():
            raise UsageError(f"{folder} has lost its model.safetensors; give another --out.")
        if found == record:
            return FineTuned(str(folder), str(record["metric"]), validation, cached=True)
        raise UsageError(f"{folder} holds a model fine-tuned otherwise; give another --out.")
    others = [p for p in folder.glob("*") if not p.name.startswith("checkpoints-")]
    if others and not begun:
        raise UsageError(f"The folder {folder} is not empty; give another --out.")
    return None


def _bf16(device: str) -> bool:
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported())
    return device == "cpu" and bool(torch.backends.mkldnn.is_available()) and _cpu_has_bf16()


def _cpu_has_bf16() -> bool:
    # Emulated bf16 is slower than fp32, so only where the processor has instructions for it.
    return bool(
        getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
        or getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    )
