"""Task: a fine-tuned model, its tokenizer, three disjoint splits of data and a metric."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from axsearch.architectures import architecture_of
from axsearch.data import LabelledText, read_data
from axsearch.errors import UsageError, cause
from axsearch.metrics import GLUE_METRICS, METRICS

TASKS = ("text-classification",)
CALIBRATION_EXAMPLES = 512
LONGEST = 512
FINGERPRINTED = (
    "model_type",
    "num_attention_heads",
    "hidden_act",
    "layer_norm_eps",
    "max_position_embeddings",
    "position_embedding_type",
)
"""Config values that change what a model says while its weights stay the same."""

Batch = dict[str, torch.Tensor]

transformers.utils.logging.set_verbosity_error()  # their notes on loading are not the user's
transformers.utils.logging.disable_progress_bar()


@dataclass(frozen=True)
class Split:
    """Tokenised examples: ``inputs`` as the tokenizer gives them, unpadded; ``labels`` ids."""

    name: str
    inputs: list[dict[str, list[int]]]
    labels: NDArray[np.int64]
    pad_id: int

    def __len__(self) -> int:
        return len(self.inputs)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the token ids and labels, so of text, tokenizer and length together."""
        data = json.dumps([self.inputs, self.labels.tolist()], separators=(",", ":"))
        return hashlib.sha256(data.encode()).hexdigest()

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens in each example, (examples,)."""
        return np.array([len(example["input_ids"]) for example in self.inputs])

    def batches(self, size: int) -> Iterator[tuple[NDArray[np.int64], Batch]]:
        """Length-bucketed batches, shortest first: the examples' positions and their tensors.

        Tensors are (examples in the batch, longest of them).
        """
        order = np.argsort(self.lengths, kind="stable")
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            yield rows, self.collate(rows)

    def collate(self, rows: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Pad these examples to the longest of them."""
        longest = int(self.lengths[rows].max())
        batch = {}
        for key in self.inputs[0]:
            fill = self.pad_id if key == "input_ids" else 0
            padded = [
                self.inputs[row][key] + [fill] * (longest - len(self.inputs[row][key]))
                for row in rows
            ]
            batch[key] = torch.tensor(padded)
        return batch


@dataclass(frozen=True)
class Task:
    """What a study is about.

    Attributes:
        model_name: local directory or hub name of the base.
        data_name: local directory or hub name of the data.
        metric: name of the accuracy metric.
        model: the base, in evaluation mode, fp32.
        calibration: up to 512 examples of train, for importance and damage.
        search: the validation split (or ``search_examples`` of it), for the objective.
        holdout: the test split, opened only to report the chosen models.
        notes: what was decided while reading the data.
    """

    model_name: str
    data_name: str
    metric: str
    seed: int
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    calibration: Split
    search: Split
    holdout: Split
    notes: tuple[str, ...]

    @classmethod
    def load(
        cls,
        model: str,
        data: str,
        *,
        task: str | None = None,
        metric: str | None = None,
        text_columns: Sequence[str] | None = None,
        label_column: str | None = None,
        search_examples: int | None = None,
        seed: int = 0,
    ) -> Task:
        """Load a fine-tuned model and its data.

        Args:
            model: local directory or hub name of a fine-tuned classifier.
            data: folder with train, validation and test files, or a hub dataset.
            task: ``text-classification`` or a GLUE name such as ``glue/sst2``; inferred if None.
            metric: see :data:`axsearch.metrics.METRICS`; the task's own if None.
            text_columns: columns holding the text or the two texts; recognised if None.
            label_column: ``label`` if None.
            search_examples: use this many examples of the validation split, drawn by ``seed``.
            seed: of the examples that are drawn. (Missing splits are cut the same way always.)

        Raises:
            UsageError: the model, the data or their combination cannot be used.
        """
        if search_examples is not None and search_examples < 1:
            raise UsageError(f"--search-examples must be at least 1, not {search_examples}.")
        metric = resolve_metric(task, metric)
        config = load_config(model)
        architectures = config.architectures or [""]
        if not architectures[0].endswith("ForSequenceClassification"):
            raise UsageError(
                f"{model} has no classification head ({architectures[0] or 'unknown class'}); "
                "fine-tune it first with `axsearch finetune`."
            )
        read = read_data(data, text_columns=text_columns, label_column=label_column)
        ids = label_ids(config, [*read.train.labels, *read.validation.labels, *read.test.labels])
        tokenizer = load_tokenizer(model)
        length = input_length(tokenizer, config)

        if len(tokenizer) > config.vocab_size:
            raise UsageError(
                f"The tokenizer of {model} knows {len(tokenizer)} tokens, its model only "
                f"{config.vocab_size}; they do not belong together."
            )

        def split(name: str, part: LabelledText, examples: int | None) -> Split:
            rows = list(range(len(part)))
            if examples is not None and examples < len(part):
                drawn = np.random.default_rng(seed).permutation(len(part))[:examples]
                rows = sorted(int(row) for row in drawn)
            texts = [part.texts[row] for row in rows]
            labels = np.array([ids[part.labels[row]] for row in rows])
            inputs = encode(tokenizer, texts, length)
            return Split(name, inputs, labels, tokenizer.pad_token_id or 0)

        return cls(
            model_name=model,
            data_name=data,
            metric=metric,
            seed=seed,
            model=load_model(model),
            tokenizer=tokenizer,
            calibration=split("calibration", read.train, CALIBRATION_EXAMPLES),
            search=split("search", read.validation, search_examples),
            holdout=split("holdout", read.test, None),
            notes=tuple(read.notes),
        )

    @cached_property
    def model_fingerprint(self) -> str:
        """SHA-256 of the base's shapes and weights."""
        return model_fingerprint(self.model)

    @property
    def split_fingerprints(self) -> dict[str, str]:
        """Split name to fingerprint."""
        return {s.name: s.fingerprint for s in (self.calibration, self.search, self.holdout)}

    @cached_property
    def longest(self) -> int:
        """The longest input of calibration and search, in tokens."""
        return int(max(self.calibration.lengths.max(), self.search.lengths.max()))


def resolve_metric(task: str | None, metric: str | None) -> str:
    """The metric of a task name; raises UsageError for a task or metric that is not known."""
    glue = {name: GLUE_METRICS[name] for name in GLUE_METRICS}
    if task is not None and task not in TASKS and task not in glue:
        raise UsageError(f"Task {task!r} is not supported; choose {', '.join((*TASKS, *glue))}.")
    chosen = metric or glue.get(task or "", "accuracy")
    if chosen not in METRICS:
        raise UsageError(f"Metric {chosen!r} is not known; choose {', '.join(METRICS)}.")
    return chosen


def check_device(device: str) -> None:
    """Raises UsageError for a device that this machine does not have."""
    backend: Any = {"cuda": torch.cuda, "mps": torch.backends.mps}.get(device.split(":")[0])
    if device != "cpu" and (backend is None or not backend.is_available()):
        raise UsageError(f"The device {device!r} is not available on this machine; use cpu.")


def load_config(model: str) -> PreTrainedConfig:
    """The config of a supported model; raises UsageError for anything else."""
    path = Path(model).expanduser()
    local = path.exists() or model.startswith(("/", ".", "~")) or model.count("/") > 1
    if local and not (path / "config.json").is_file():
        raise UsageError(f"The model folder {model} does not exist or holds no config.json.")
    try:
        raw, _ = PreTrainedConfig.get_config_dict(str(path) if local else model)
    except Exception as error:  # the hub client raises a dozen unrelated kinds
        reason = cause(error)
        raise UsageError(f"{model} cannot be loaded as a model: {reason}.") from None
    if not isinstance(raw, dict):
        raise UsageError(f"{model}/config.json is not a model's config.")
    architecture_of(raw.get("model_type", "unknown"))
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(str(path) if local else model)
    except Exception as error:  # a config whose values contradict one another
        reason = cause(error)
        raise UsageError(f"{model}/config.json cannot be used: {reason}.") from None
    return config


def load_model(
    model: str, *, attention: str = "sdpa", new_head: bool = False, **config: Any
) -> PreTrainedModel:
    """The classifier in evaluation mode, fp32, from safetensors only.

    ``config`` entries replace those of the model's own config. Weights of the head may be missing
    only with ``new_head``. Raises UsageError where weights are missing or damaged.
    """
    try:
        loaded: PreTrainedModel
        loaded, found = AutoModelForSequenceClassification.from_pretrained(
            str(Path(model).expanduser()) if Path(model).expanduser().exists() else model,
            dtype=torch.float32,
            attn_implementation=attention,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=new_head,
            **config,
        )
    except Exception as error:  # safetensors, torch and the config's readers have a kind each
        reason = cause(error)
        raise UsageError(
            f"The weights of {model} (model.safetensors) cannot be loaded: {reason}."
        ) from None
    body = f"{loaded.base_model_prefix}."
    missing = [
        name
        for name in sorted({*found["missing_keys"], *(key[0] for key in found["mismatched_keys"])})
        if not new_head or (name.startswith(body) and ".pooler." not in name)
    ]
    if missing:
        raise UsageError(
            f"The weights of {model} (model.safetensors) lack {len(missing)} tensors of its "
            f"config, such as {missing[0]}."
        )
    loaded.eval()
    return loaded


def on_device(model: PreTrainedModel, device: str) -> PreTrainedModel:
    """Move a model, in place."""
    torch.nn.Module.to(model, device)
    return model


def load_tokenizer(model: str) -> PreTrainedTokenizerBase:
    """The tokenizer, freed of padding and truncation that its file may have built in."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            str(Path(model).expanduser()) if Path(model).expanduser().exists() else model
        )
    except Exception as error:  # tokenizers raises bare Exception on damaged files
        reason = cause(error)
        raise UsageError(f"The tokenizer of {model} cannot be loaded: {reason}.") from None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_padding()
        backend.no_truncation()
    return tokenizer


def input_length(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> int:
    """How many tokens of an example the model sees."""
    return int(min(tokenizer.model_max_length, config.max_position_embeddings, LONGEST))


def encode(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, ...]], length: int
) -> list[dict[str, list[int]]]:
    """Token ids of one or two texts an example, cut to ``length`` tokens, without padding."""
    columns = [list(column) for column in zip(*texts, strict=True)]
    encoded = tokenizer(*columns, truncation=True, max_length=length)
    keys = list(encoded.keys())
    return [
        dict(zip(keys, values, strict=True))
        for values in zip(*(encoded[key] for key in keys), strict=True)
    ]


def label_ids(config: PreTrainedConfig, labels: Sequence[str]) -> dict[str, int]:
    """What each label is to the model's head; raises UsageError where they do not fit."""
    found = sorted(set(labels))
    names: dict[str, Any] = dict(config.label2id or {})
    named = {str(name): int(index) for name, index in names.items()}
    if set(found) <= set(named):
        return {label: named[label] for label in found}
    numbered = any(name.isdecimal() for name in named)  # then '1' may well be its name for 0
    if not numbered and all(label.isdecimal() and int(label) < len(names) for label in found):
        return {label: int(label) for label in found}
    shown = ", ".join(repr(label) for label in found[:6]) + (", …" if len(found) > 6 else "")
    raise UsageError(
        f"The labels of the data ({shown}) do not fit the model's head, "
        f"which knows {', '.join(map(repr, list(named)[:6]))}."
    )


def model_fingerprint(model: PreTrainedModel) -> str:
    """SHA-256 of names, shapes, types and bytes of all weights, and of what the config adds."""
    digest = hashlib.sha256()
    values = {name: getattr(model.config, name, None) for name in FINGERPRINTED}
    digest.update(json.dumps(values, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().cpu().view(torch.uint8).numpy().data)
    return digest.hexdigest()
