"""Calibration examples on which smaller models are refitted, and how much each token counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from axsearch.approximations.site import SiteId
from axsearch.models.base_model import Base
from axsearch.models.refit.moments import drawn, felt, token_weights

if TYPE_CHECKING:
    from axsearch.tasks.kinds import TaskKind
    from axsearch.tasks.split import Split


@dataclass(frozen=True)
class SampleSize:
    """How many calibration examples are taken at most, and how many tokens in all."""

    examples: int
    tokens: int


TRIAL = SampleSize(256, 32_768)
"""For the models of trials."""

POLISHING = SampleSize(2_048, 65_536)
"""For the models of the front: a hidden state of BERT-base on all tokens has 201 MB."""

FEWEST = 16
"""Examples, however long they are; what a layer computes on all their tokens is kept."""

SENSITIVE = 0.5
"""The part of an example's weight that its tokens share by how much the loss depends on them.

Less than in the moments of the base: what a block is fitted to here, the blocks above read too.
"""


@dataclass(frozen=True)
class Sample:
    """Calibration examples in batches.

    Attributes:
        batches: inputs of the model, on its device.
        masks: which places hold a token that is no padding, (examples, length) a batch.
        weights: how much each of these tokens counts at a site, (tokens,) a batch, see
            :func:`axsearch.models.refit.moments.token_weights`.
    """

    batches: Sequence[Mapping[str, Tensor]]
    masks: Sequence[Tensor]
    weights: Mapping[SiteId, Sequence[Tensor]]


def measure_sample(
    base: Base,
    split: Split,
    kind: TaskKind[Any, Any],
    size: SampleSize,
    *,
    sensitive: float = SENSITIVE,
    device: str = "cpu",
    on_batch: Callable[[int, int], None] | None = None,
) -> Sample:
    """Draw examples of a split up to a size, always the same ones, and weigh their tokens.

    The base's layers must not share weights. ``on_batch`` receives the number of examples so far
    and in all.
    """
    examples = drawn(split, size.tokens, size.examples, FEWEST)
    batches, masks = [], []
    weights: dict[SiteId, list[Tensor]] = {}
    for _, batch, sites in felt(base, split, kind, examples, device, on_batch):
        batches.append(batch)
        for site, _, slope in sites:
            own = token_weights(slope, batch.get("attention_mask"), sensitive)
            weights.setdefault(site, []).append(own)
        masks.append(own > 0)
    flat = {
        site: [own[mask] for own, mask in zip(parts, masks, strict=True)]
        for site, parts in weights.items()
    }
    return Sample(batches, masks, flat)


def tokens_of(values: Tensor, mask: Tensor) -> Tensor:
    """Values of the tokens that are no padding, (tokens, width); a view where there is none."""
    return values.flatten(0, 1) if mask.all() else values[mask]
