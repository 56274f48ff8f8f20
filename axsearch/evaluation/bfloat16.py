"""Evaluation in bfloat16 with the answers of float32.

bfloat16 can only change which of two logits is larger where the error of their difference exceeds
the difference. So the features whose logits are closest together are run again in float32, which
shows the error, until the logits of all others lie further apart than a multiple of the largest
error found. For the features that were run again the answers of float32 count. That the errors of
the others are no larger is measured, not proven: for 50 recipes of a search on 1,000 examples no
answer differed, see
``studies/benchmarks/evaluation.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

SAFETY = 2.0
"""How many times the largest error found an answer's logits must lie apart to be accepted."""

AGAIN = 1 / 64
FEWEST = 8
"""The fewest features that are run again: a share of all, and a number."""


def is_fast(device: str) -> bool:
    """Whether the device multiplies bfloat16 matrices faster than float32 ones."""
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device == "cpu" and any(
        getattr(torch.cpu, f"_is_{name}_supported", bool)() for name in ("avx512_bf16", "amx_tile")
    )


def lowered(model: PreTrainedModel) -> dict[str, Tensor]:
    """A model's parameters in bfloat16, by name. Buffers, such as angles of positions, are not."""
    return {
        name: parameter.detach().to(torch.bfloat16)
        for name, parameter in model.named_parameters()
        if parameter.is_floating_point()
    }


def settle(
    logits: Sequence[Tensor],
    margins: NDArray[np.float32],
    again: Callable[[NDArray[np.int64]], Sequence[Tensor]],
) -> None:
    """Run all features again whose answer could differ in bfloat16.

    Args:
        logits: of each feature in bfloat16, (…, classes) each.
        margins: by how much a difference of two of a feature's logits must change before its answer
            does, (features,).
        again: runs some features, by their numbers, in float32, and returns their logits.
    """
    order = np.argsort(margins, kind="stable")
    apart = margins[order]
    done, deviation = 0, 0.0
    wanted = min(len(order), max(FEWEST, round(AGAIN * len(order))))
    while done < wanted:
        rows = order[done:wanted]
        for row, exact in zip(rows, again(rows), strict=True):
            change = logits[row] - exact
            deviation = max(deviation, float((change.amax(-1) - change.amin(-1)).max()))
        done = wanted
        wanted = max(wanted, int(np.searchsorted(apart, SAFETY * deviation, side="right")))
