"""What a model is expected to lose on new data, although it was chosen for having lost little.

The drop that a split shows of a chosen model is too small on average: of models that are equally
good, the lucky one is chosen (the winner's curse). The mean of what is known of a model given *all*
results is not moved by choosing (Efron 2011, "Tweedie's formula and selection bias", Journal of the
American Statistical Association 106). So the drop that the examples show of a model is shrunk
towards what the other models say of one like it, as Fay & Herriot 1979 did for small areas
("Estimates of income for small places", Journal of the American Statistical Association 74).

Of N models, y are the drops that the split shows, pair by pair with the base, and x the divergences
of their outputs from the base's. For their true drops d

    y | d ~ Normal(d, S)          S: the covariance of a paired bootstrap
    d | x ~ Normal(s z, K + R)    K: a smooth relation; R: by how much a model differs from it

    z = x / max(x),  R_ii = s^2 ((t z_i^p)^2 + e_i^2)
    K_ij = s^2 z_i z_j (COMMON^2 + g^2 exp(-(log z_i - log z_j)^2 / (2 REACH^2)))

so that the drop is about proportional to the divergence, with a factor that changes slowly with the
order of magnitude. A model near the base flips few answers, and these where the base was undecided,
so flips either way nearly cancel out: what is lost is, to first order, proportional to the
divergence, which the examples show with far less noise than the drop. s is the largest change seen,
whether a drop or a gain, so the factor is expected to be about what it is for the model that
changed most; a smaller one must be shown by the examples, and so must a gain. e is the standard
error of z, by the same examples. How much the factor changes, g, and the residual, t and p, are
averaged over by their marginal likelihood (Morris 1983, "Parametric empirical Bayes inference",
Journal of the American Statistical Association 78); given these, all is normal. The grids are
around what holdout splits show of the models of `studies/benchmarks/promises.py`.

A model that was trained further answers otherwise than the base without losing as much: labels
teach it what the base does not know. Such models have a factor of their own, which nothing but
their own results says: about TRAINED times that of models as they were cut, give or take as much. s
and max(x) are those of models as they were cut, where there are any.

Far from the base the metric runs out of what it can lose and the relation flattens: models that
lost more than a share ``FAR`` of the base's metric are left out of it, and of them the drop that
was seen is expected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from axsearch.statistics.inference import CONFIDENCE, paired_drops
from axsearch.statistics.metrics import Floats, value
from axsearch.statistics.outcome import Estimate, Outcome

CHANGES = (0.1, 0.3)
RESIDUALS = (0.03, 0.1, 0.3)
POWERS = (0.75, 1.0)
"""The grids of g, t and p, each value as likely as any other beforehand."""

COMMON = 0.3
"""How far the factor of all models may be from that of the one that lost most, as a share of it."""

TRAINED = 0.5
"""The factor of models that were trained further, and how far it may be from that."""

REACH = 1.5
"""Over how many factors of e in divergence the relation's own factor is about the same."""

NORMAL = NormalDist()

FAR = 0.2

LEAST = 1e-6
"""The smallest divergence that is told apart from none, as a share of the largest."""


@dataclass(frozen=True)
class Expected:
    """The drop below the base's metric that is expected of a model on new data.

    Attributes:
        drop: its mean, positive where the model is worse than the base.
        error: its standard deviation, given what was seen.
        sampling: the standard error of the drop that the examples alone show.
        examples: how many examples were seen.
    """

    drop: float
    error: float
    sampling: float
    examples: int

    @property
    def interval(self) -> Estimate:
        """The drop with the ends of the interval in which it is with a probability of 95 %."""
        reach = NORMAL.inv_cdf((1 + CONFIDENCE) / 2) * self.error
        return Estimate(self.drop, self.drop - reach, self.drop + reach)

    def probability(self, most: float) -> float:
        """How likely it is that the drop is at most this."""
        if self.error == 0:
            return float(self.drop <= most)
        return NORMAL.cdf((most - self.drop) / self.error)

    def examples_for(self, most: float, probability: float) -> int | None:
        """How many examples would do to say that the drop is at most this, if it is as expected.

        Examples add up in precision, ``1 / error**2``. None where no number of examples would do.
        """
        if self.probability(most) >= probability:
            return self.examples
        if self.drop >= most:
            return None
        needed = (NORMAL.inv_cdf(probability) / (most - self.drop)) ** 2
        missing = (needed - self.error**-2) * self.sampling**2
        return math.ceil(self.examples * (1 + missing))


def expected_drops(
    outcomes: Sequence[Outcome],
    base: Outcome,
    divergence: Sequence[tuple[float, float]],
    trained: Sequence[bool] | None = None,
) -> list[Expected]:
    """What each model is expected to lose, by the drops and divergences of all of them.

    Args:
        outcomes: of the models on one split, the base not among them.
        base: the base's on the same split.
        divergence: of each model's outputs from the base's on that split, with its standard error:
            nats, or anything to which small drops are proportional.
        trained: whether a model was trained further; none was if None.
    """
    if not outcomes:
        return []
    drops, covariance = paired_drops(outcomes, base)
    error = np.sqrt(np.diag(covariance))
    expected, doubt = drops.copy(), error.copy()
    near = np.flatnonzero(drops <= FAR * value(base))
    if len(near):
        far, blur = np.array(divergence, float)[near].T
        own = np.array([False] * len(outcomes) if trained is None else trained)[near]
        cut = ~own if not own.all() else own
        scale = max(float(np.abs(drops[near][cut]).max()), 1 / len(base))
        largest = max(float(far[cut].max()), 1e-12)
        mean, deviation = _posterior(
            drops[near] / scale,
            covariance[np.ix_(near, near)] / scale**2,
            far / largest,
            blur / largest,
            own,
        )
        expected[near], doubt[near] = scale * mean, scale * deviation
    return [
        Expected(float(drop), float(own), float(sampling), len(base))
        for drop, own, sampling in zip(expected, doubt, error, strict=True)
    ]


def _posterior(
    drops: Floats,
    covariance: Floats,
    place: Floats,
    blur: Floats,
    trained: NDArray[np.bool_],
) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each true drop, (models,) each, for drops with s = 1.

    ``place`` is z, ``blur`` its standard error.
    """
    place = np.maximum(place, LEAST)
    apart = np.subtract.outer(np.log(place), np.log(place))
    near = np.exp(-0.5 * np.square(apart / REACH))
    alike = np.equal.outer(trained, trained)
    common = np.where(trained, TRAINED, COMMON) ** 2
    centre = np.where(trained, TRAINED, 1.0) * place
    found = []
    for change, residual, power in product(CHANGES, RESIDUALS, POWERS):
        prior = np.outer(place, place) * alike * (common + change**2 * near)
        prior[np.diag_indices_from(prior)] += np.square(residual * place**power) + blur**2
        factor = np.linalg.cholesky(prior + covariance)
        solved = np.linalg.solve(factor, np.column_stack((drops - centre, prior)))
        seen, known = solved[:, 0], solved[:, 1:]
        likelihood = -0.5 * seen @ seen - np.log(np.diag(factor)).sum()
        mean = centre + known.T @ seen
        found.append((likelihood, mean, np.diag(prior) - np.square(known).sum(axis=0)))
    likelihoods, means, variances = (np.array(part) for part in zip(*found, strict=True))
    weights = np.exp(likelihoods - likelihoods.max())
    weights /= weights.sum()
    mean = weights @ means
    variance = weights @ (variances + np.square(means - mean))
    return mean, np.sqrt(np.maximum(variance, 0))
