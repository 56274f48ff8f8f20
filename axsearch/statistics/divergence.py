"""How far the outputs of a model are from those of the base, by its losses alone."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def divergence_of_losses(losses: NDArray[np.float32], base: NDArray[np.float32]) -> float:
    """What of the KL divergence from the base's outputs follows from losses alone, in nats.

    A loss that is a cross entropy says how likely the right answer was. The divergence between
    right and not right is at most that of all answers, and equal to it where there are but two. For
    other losses it is a number that grows with the divergence.

    Args:
        losses: of each feature, (features,).
        base: the same in the base.
    """
    return divergence_with_error(losses, base)[0]


def divergence_with_error(
    losses: NDArray[np.float32], base: NDArray[np.float32]
) -> tuple[float, float]:
    """:func:`divergence_of_losses`, and its standard error as the mean of these features."""
    ours, theirs = (np.clip(np.exp(-x.astype(float)), 1e-6, 1 - 1e-6) for x in (losses, base))
    each = theirs * np.log(theirs / ours) + (1 - theirs) * np.log((1 - theirs) / (1 - ours))
    return float(each.mean()), float(each.std() / math.sqrt(len(each)))
