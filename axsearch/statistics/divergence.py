"""How far a model's outputs are from the base's, by what is stored of single examples."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from axsearch.statistics.outcome import Outcome


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


def divergence_of_predictions(outcome: Outcome, base: Outcome) -> tuple[float, float]:
    """1 - r^2 of the predictions of a model and the base, and its standard error.

    For correlations, which do not change where all predictions are shifted or scaled. The losses
    do, and so say little about the metric. The error is by the delta method, for normal numbers.

    Args:
        outcome: of ``pearson`` or ``spearman``, with columns of labels and predictions.
        base: the base's.
    """
    ours, theirs = (one.values[:, 1].astype(float) for one in (outcome, base))
    if outcome.statistic == "spearman":
        from scipy.stats import rankdata

        ours, theirs = rankdata(ours), rankdata(theirs)
    spread = ours.std() * theirs.std()
    together = float(((ours - ours.mean()) * (theirs - theirs.mean())).mean())
    r = together / spread if spread > 0 else 0.0
    apart = max(1 - r**2, 0.0)
    return apart, 2 * abs(r) * apart / math.sqrt(len(base))
