"""Two distribution functions; to import scipy for them takes as long as the rest of `front`."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from axsearch.statistics.metrics import Floats

Counts = NDArray[np.int64]

_erfc = np.vectorize(math.erfc, otypes=[np.float64])
_lgamma = np.vectorize(math.lgamma, otypes=[np.float64])


def normal_cdf(values: Floats) -> Floats:
    """The probability that a standard normal variable is at most each of these values."""
    found: Floats = _erfc(-values / math.sqrt(2)) / 2
    return found


def heads_cdf(heads: Counts, tosses: Counts) -> Floats:
    """The probability of at most so many heads in so many tosses of a fair coin.

    Args:
        heads: not negative, of any shape.
        tosses: at least as many, of the same shape.

    Returns:
        The probabilities in that shape, exact to a relative error of about 1e-9.
    """
    found = np.empty(heads.shape)
    for count in np.unique(tosses):
        here = tosses == count
        each = np.arange(heads[here].max() + 1)
        ways = math.lgamma(count + 1) - _lgamma(each + 1) - _lgamma(count - each + 1)
        found[here] = np.cumsum(np.exp(ways - count * math.log(2)))[heads[here]]
    return np.minimum(found, 1)
