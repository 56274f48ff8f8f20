"""The least memory that a model's activations take, by its shapes: known before anything is run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from axsearch.errors import UsageError
from axsearch.models.architectures import architecture_of
from axsearch.system.memory import obtainable
from axsearch.tasks.split import Split

GIB = 2**30
FLOAT32 = 4
"""Bytes of a number."""

BOOL_AND_FLOAT = 1.25
"""A mask as transformers makes it, and as PyTorch's attention adds it to the scores."""


@dataclass(frozen=True)
class Need:
    """The least memory that a stage takes beside the model, in bytes, and how to make it less."""

    stage: str
    memory: int
    remedy: str


@dataclass(frozen=True)
class Shapes:
    """What the activations of a model follow from.

    Attributes:
        layers: how many run one after the other.
        hidden: width of the hidden state.
        widest: the largest width of a projection in a layer, that of the FFN.
        scores: numbers of attention's scores for each pair of tokens: its heads, or 0 where the
            kernel keeps none.
        masks: numbers of masks for each pair of tokens, those of sliding windows.
    """

    layers: int
    hidden: int
    widest: int
    scores: int
    masks: float

    @classmethod
    def of(cls, model: PreTrainedModel) -> Shapes:
        """The shapes of a model, with the attention that it has now."""
        config = model.config
        layers = architecture_of(config.model_type).layers(model)
        widths = [max(p.shape) for layer in layers for p in layer.parameters() if p.ndim == 2]
        eager = config._attn_implementation == "eager"
        windows = "sliding_attention" in (getattr(config, "layer_types", None) or ())
        return cls(
            int(config.num_hidden_layers),
            int(config.hidden_size),
            max([int(config.hidden_size), *widths]),
            int(config.num_attention_heads) if eager else 0,
            BOOL_AND_FLOAT if windows else 0.0,
        )

    def forward(self, rows: int, length: int) -> int:
        """Bytes of a forward pass: the FFN before and after its activation, or attention.

        Of this many inputs of this many tokens, as in the next one.
        """
        attention = 5 * self.hidden + (2 * self.scores + self.masks) * length
        widest = max(2 * self.hidden + 2 * self.widest, attention)
        return int(rows * length * FLOAT32 * widest)

    def backward(self, rows: int, length: int) -> int:
        """Bytes that all layers keep for a backward pass."""
        each = 6 * self.hidden + 2 * self.widest + self.scores * length
        return rows * length * FLOAT32 * self.layers * each


def sizes(split: Split, size: int) -> Iterator[tuple[int, int]]:
    """The rows and the tokens of each batch of :meth:`Split.batches`."""
    for rows in split.groups(np.arange(len(split)), size):
        yield len(rows), int(split.lengths[rows[-1]])


def check_memory(needs: Iterable[Need], device: str) -> None:
    """Compare what stages take at least with what the device has.

    Only what every library must hold at once is counted: measured peaks, of BERT's and ModernBERT's
    layers with 512 to 8,192 tokens, were 1.2 to 2.4 times as high. So what is refused cannot run.

    Raises:
        UsageError: a stage takes more.
    """
    if device == "cpu":
        there = obtainable()
    elif device.startswith("cuda"):
        there = torch.cuda.mem_get_info(device)[0]
    else:  # a GPU that shares the machine's memory does not say how much of it
        return
    need = max(needs, key=lambda one: one.memory)
    if need.memory > there:
        raise UsageError(
            f"{need.stage} takes at least {need.memory / GIB:.1f} GiB of memory, and "
            f"{there / GIB:.1f} GiB are free: {need.remedy}."
        )
