"""Calibration examples on which smaller models are refitted, and how much each token counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
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
"""For the models of the front, at most: see :func:`polishing_size`."""

STATES = 65_536 * 6 * 384
"""Numbers that the layers of the base may give out on the tokens of polishing, all together. What
is kept of a layer has up to four times as many, so this bounds the memory, 2.4 GB, and the time:
BERT-base has 16,384 tokens, and takes twice as long as MiniLM with 6 layers."""

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


def polishing_size(base: Base) -> SampleSize:
    """How many examples a front's models are polished on: fewer where the base is large."""
    each = len(base.layers(base.model)) * base.model.config.hidden_size
    return SampleSize(POLISHING.examples, min(POLISHING.tokens, STATES // each))


def measure_sample(
    base: Base,
    split: Split,
    kind: TaskKind[Any, Any],
    size: SampleSize,
    *,
    sensitive: float = SENSITIVE,
    device: str = "cpu",
    bfloat16: bool = False,
    on_batch: Callable[[int, int], None] | None = None,
) -> Sample:
    """Draw examples of a split up to a size, always the same ones, and weigh their tokens.

    The base's layers must not share weights. With ``bfloat16`` the gradients are computed in it,
    which changes what tokens weigh by less than a hundredth. ``on_batch`` receives the number of
    examples so far and in all.
    """
    examples = drawn(split, size.tokens, size.examples, FEWEST)
    batches, masks = [], []
    weights: dict[SiteId, list[Tensor]] = {}
    lower = torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bfloat16)
    with lower:
        for _, batch, sites in felt(base, split, kind, examples, device, on_batch):
            batches.append(batch)
            for site, _, slope in sites:
                own = token_weights(slope.float(), batch.get("attention_mask"), sensitive)
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
