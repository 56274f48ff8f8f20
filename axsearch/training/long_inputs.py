"""Training on long inputs within bounded memory, and on longer ones than a model could read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, Trainer

from axsearch.errors import UsageError
from axsearch.evaluation.footprint import FLOAT32, Need, Shapes, check_memory
from axsearch.models.architectures import architecture_of
from axsearch.models.positions import with_positions
from axsearch.tasks.spec import TaskSpec
from axsearch.tasks.split import FULL, Split

WHOLE = 128
"""Tokens of an example up to which a batch is one part on a CPU: all activations are kept for the
backward pass, with attention's scores. A GPU, which small parts would leave idle, takes 512."""

ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")
"""What configs call the dropout of attention's probabilities."""

Part = dict[str, torch.Tensor]


def more_positions(spec: TaskSpec, config: PreTrainedConfig) -> int | None:
    """The number of positions that a model must be given for ``max_length``; None if it has them.

    Raises UsageError for a family whose positions are no table.
    """
    family = architecture_of(config.model_type)
    asked, most = spec.max_length, family.longest(config)
    if asked is None or asked <= most:
        return None
    if family.positions is None:
        raise UsageError(
            f"`max_length={asked}` is above the {most} positions of {spec.model}, and "
            f"{config.model_type} has no embeddings of them that could be repeated; give at most "
            f"{most}, or use a model with more."
        )
    return asked


def attention_dropout(config: PreTrainedConfig, longest: int) -> dict[str, float]:
    """The config's entries of attention's dropout, where it must be left out in training.

    PyTorch's attention has no kernel on a CPU that drops probabilities, and would make all of them
    at once. Up to 512 tokens that is what eager attention does too.
    """
    if longest <= FULL or architecture_of(config.model_type).attention == "eager":
        return {}
    return {name: getattr(config, name) for name in ATTENTION_DROPOUT if hasattr(config, name)}


def prepared(model: PreTrainedModel, longest: int, positions: int | None) -> PreTrainedModel:
    """The model with the positions that it is to have, for inputs of up to ``longest`` tokens.

    Above 512 tokens only one layer's activations are kept at a time, where the model can do that,
    and the family's own attention is used: eager scores of (heads, 8192, 8192) are 3 GB a layer.
    """
    if positions is not None:
        model = with_positions(model, positions)
    if longest > FULL:
        if model.supports_gradient_checkpointing:
            # transformers has renamed it
            name = "activation_checkpointing_enable"
            getattr(model, name, model.gradient_checkpointing_enable)({"use_reentrant": False})
        attend_as(model, architecture_of(model.config.model_type).attention)
    return model


def attend_as(model: PreTrainedModel, implementation: str) -> None:
    """Give a model another implementation of attention, unless its own attends to fewer keys."""
    if model.config._attn_implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)


def in_parts(
    split: Split,
    rows: Sequence[int],
    device: str = "cpu",
    more: Callable[[NDArray[np.int64]], Part] = lambda _: {},
) -> dict[str, list[Part]]:
    """A batch of these features, in parts of bounded memory, with their targets as ``labels``.

    ``more`` returns other tensors of some features, which their part is to have.
    """
    every, whole = np.asarray(rows), WHOLE if device == "cpu" else FULL
    short = split.lengths[every].max() <= whole
    parts = [every] if short else split.groups(every, len(every), whole)
    return {
        "parts": [
            {**split.collate(own), "labels": split.collate_targets(own), **more(own)}
            for own in parts
        ]
    }


def check_room(model: PreTrainedModel, split: Split, device: str) -> None:
    """Compare what training takes at least with the memory that is free.

    That is two numbers of Adam's and a gradient for each that is trained, and the activations of
    the longest example, of one layer at a time where the others are not kept.

    Raises:
        UsageError: there is too little.
    """
    shapes, length = Shapes.of(model), int(split.lengths.max())
    kept = shapes.backward(1, length)
    if length > FULL and model.supports_gradient_checkpointing:
        kept = kept // shapes.layers + shapes.layers * shapes.hidden * length * FLOAT32
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    need = Need(
        f"Training on inputs of {length:,} tokens",
        3 * trained * FLOAT32 + kept,
        "give a smaller `max_length`, or use a machine with more",
    )
    check_memory([need], device)


class InParts(Trainer):
    """A trainer whose batches are those of :func:`in_parts`; the loss function sums over features.

    A step is the same as with the whole batch at once: the gradient of the mean loss of its
    features.
    """

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """The mean loss over the features of all parts, whose gradients are added up."""
        parts: list[Part] = inputs["parts"]
        self._features = sum(len(part["labels"]) for part in parts)
        losses = [super(InParts, self).training_step(model, part) for part in parts]
        return torch.stack(losses).sum()

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """The sum over a part's features, as a share of the batch's."""
        summed: Any = super().compute_loss(*args, **kwargs)
        return summed / self._features
