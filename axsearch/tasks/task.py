"""Task: a fine-tuned model, its tokenizer, three disjoint splits of data and a metric."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from axsearch.errors import UsageError, cause
from axsearch.models.architectures import architecture_of
from axsearch.models.base_model import Base
from axsearch.tasks.data import read_data
from axsearch.tasks.kinds import TaskKind, check_names, named_kind, resolve_metric, task_kinds
from axsearch.tasks.spec import TaskSpec
from axsearch.tasks.split import Batch, Split

__all__ = [
    "Batch",
    "Split",
    "Task",
    "check_head",
    "input_length",
    "load_config",
    "load_model",
    "load_tokenizer",
    "model_fingerprint",
    "on_device",
]

CALIBRATION_EXAMPLES = 512
LONGEST = 512
FINGERPRINTED = (
    "activation",
    "activation_function",
    "classifier_activation",
    "classifier_pooling",
    "conv_act",
    "conv_kernel_size",
    "is_decoder",
    "hidden_act",
    "hidden_activation",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "layer_types",
    "local_attention",
    "max_position_embeddings",
    "max_relative_positions",
    "model_type",
    "norm_eps",
    "norm_rel_ebd",
    "num_attention_heads",
    "num_hidden_groups",
    "num_hidden_layers",
    "pad_token_id",
    "pooler_hidden_act",
    "pos_att_type",
    "position_buckets",
    "position_embedding_type",
    "relative_attention",
    "relative_attention_num_buckets",
    "reorder_and_upcast_attn",
    "rope_parameters",
    "scale_attn_by_inverse_layer_idx",
    "scale_attn_weights",
    "share_att_key",
)
"""Config values that change what a model says while its weights stay the same."""

transformers.utils.logging.set_verbosity_error()  # their notes on loading are not the user's
transformers.utils.logging.disable_progress_bar()


@dataclass(frozen=True)
class Task:
    """The model and data of a study.

    Attributes:
        model_name: local directory or hub name of the base.
        data_name: local directory or hub name of the data.
        kind: the kind of task: its loss, its answers and how they are scored.
        metric: name of the accuracy metric.
        model: the base, in evaluation mode, fp32.
        calibration: up to 512 examples of train, for importance and damage.
        search: the validation split (or ``search_examples`` of it), for the objective.
        holdout: the test split, opened only to report the chosen models.
        notes: the decisions made while reading the data.
    """

    model_name: str
    data_name: str
    kind: TaskKind[Any, Any]
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
            model: local directory or hub name of a fine-tuned model.
            data: folder with train, validation and test files, or a hub dataset.
            task: a kind of :func:`axsearch.tasks.kinds.task_kinds`, or a GLUE name such as
                ``glue/sst2``; inferred from the columns if None.
            metric: one of the kind's metrics; the task's own if None.
            text_columns: columns holding the text or the two texts; recognised if None.
            label_column: column of the targets; recognised if None.
            search_examples: use this many examples of the validation split, drawn by ``seed``.
            seed: of the examples that are drawn. (Missing splits are always cut in the same way.)

        Raises:
            UsageError: the model, the data or their combination cannot be used.
        """
        spec = TaskSpec(
            model,
            data,
            task=task,
            metric=metric,
            text_columns=None if text_columns is None else tuple(text_columns),
            label_column=label_column,
            search_examples=search_examples,
            seed=seed,
        )
        spec.check()
        return cls.of(spec)

    @classmethod
    def of(cls, spec: TaskSpec) -> Task:
        """Load the model and data of a spec; raises UsageError as :meth:`load` does."""
        model = spec.model
        check_names(spec.task, spec.metric)
        config = load_config(model)
        check_head(model, config, named_kind(spec.task))
        read = read_data(
            spec.data,
            task=spec.task,
            text_columns=spec.text_columns,
            label_column=spec.label_column,
        )
        kind = read.kind
        check_head(model, config, kind)
        metric = resolve_metric(kind, spec.task, spec.metric)
        labels = kind.labels(config, [*read.train, *read.validation, *read.test])
        kind.check_labels(labels, metric)
        tokenizer = load_tokenizer(model)
        kind.prepare_tokenizer(tokenizer)
        length = input_length(tokenizer, config)

        if len(tokenizer) > config.vocab_size:
            raise UsageError(
                f"The tokenizer of {model} knows {len(tokenizer)} tokens, its model only "
                f"{config.vocab_size}; they do not belong together."
            )

        def split(name: str, examples: list[Any], most: int | None) -> Split:
            if most is not None and most < len(examples):
                drawn = np.random.default_rng(spec.seed).permutation(len(examples))[:most]
                examples = [examples[row] for row in sorted(drawn)]
            made: Split = kind.split(name, examples, tokenizer, length, labels)
            return made

        return cls(
            model_name=model,
            data_name=spec.data,
            kind=kind,
            metric=metric,
            seed=spec.seed,
            model=load_model(model, kind.auto_class),
            tokenizer=tokenizer,
            calibration=split("calibration", read.train, CALIBRATION_EXAMPLES),
            search=split("search", read.validation, spec.search_examples),
            holdout=split("holdout", read.test, None),
            notes=read.notes,
        )

    @cached_property
    def model_fingerprint(self) -> str:
        """SHA-256 of the base's shapes and weights."""
        return model_fingerprint(self.model)

    @cached_property
    def base(self) -> Base:
        """The base with its family and sites; inputs are as long as the longest of the splits."""
        return Base(self.model, self.longest)

    @property
    def split_fingerprints(self) -> dict[str, str]:
        """Split name to fingerprint."""
        return {s.name: s.fingerprint for s in (self.calibration, self.search, self.holdout)}

    @cached_property
    def longest(self) -> int:
        """The longest input of calibration and search, in tokens."""
        return int(max(self.calibration.lengths.max(), self.search.lengths.max()))


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
    if not architecture_of(config.model_type).reads_text:
        raise UsageError(
            f"{model} is a {config.model_type} model, which does not read text; axsearch has no "
            "task for it yet, only `axsearch.shrink`."
        )
    if getattr(config, "is_decoder", False):
        raise UsageError(
            f"{model} is set up as a decoder (is_decoder in its config), which is not supported "
            f"for {config.model_type}."
        )
    if config.pad_token_id is None:
        raise UsageError(
            f"{model} has no padding token, which batches need: set pad_token_id in its "
            "config.json and pad_token in its tokenizer_config.json, to the end token, for example."
        )
    return config


def check_head(model: str, config: PreTrainedConfig, kind: TaskKind[Any, Any] | None) -> None:
    """Raises UsageError for a model whose head is not one for this kind, or for any if None."""
    found = (config.architectures or [""])[0]
    kinds = task_kinds().values() if kind is None else (kind,)
    if any(found.endswith(fitting.head) for fitting in kinds):
        return
    other = " or ".join(k.name for k in task_kinds().values() if found.endswith(k.head))
    if kind is not None and other:
        raise UsageError(
            f"{model} has a head for {other} ({found}), which does not fit {kind.name}; "
            "give the right `task` and data, or fine-tune it with `axsearch finetune`."
        )
    raise UsageError(
        f"{model} has no head for {'any task' if kind is None else kind.name} "
        f"({found or 'unknown class'}); fine-tune it first with `axsearch finetune`."
    )


def load_model(
    model: str,
    auto_class: Any,
    *,
    attention: str | None = None,
    new_head: bool = False,
    **config: Any,
) -> PreTrainedModel:
    """A model with its head in evaluation mode, fp32, from safetensors only.

    ``auto_class`` is transformers' class for the head (:attr:`TaskKind.auto_class`), ``attention``
    the implementation of attention; the family's own if None. ``config`` entries replace those of
    the model's own config. Weights of the head may be missing only with ``new_head``. Raises
    UsageError where weights are missing or damaged.
    """
    own = load_config(model)
    if getattr(own, "chunk_size_feed_forward", 0):
        config["chunk_size_feed_forward"] = 0  # the same answers, and blocks that run once
    try:
        loaded: PreTrainedModel
        loaded, found = auto_class.from_pretrained(
            str(Path(model).expanduser()) if Path(model).expanduser().exists() else model,
            dtype=torch.float32,
            attn_implementation=attention or architecture_of(own.model_type).attention,
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
    for parameter in loaded.parameters():  # mapped from the file, which may change meanwhile
        parameter.data = parameter.data.clone()
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
    most = architecture_of(config.model_type).longest(config)
    return int(min(tokenizer.model_max_length, most, LONGEST))


def model_fingerprint(model: PreTrainedModel) -> str:
    """SHA-256 of names, shapes, types and bytes of all weights, and of what the config adds."""
    digest = hashlib.sha256()
    values = {name: getattr(model.config, name, None) for name in FINGERPRINTED}
    digest.update(json.dumps(values, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().cpu().view(torch.uint8).numpy().data)
    return digest.hexdigest()
