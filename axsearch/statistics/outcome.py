"""The result of an evaluation: a value with its interval, and each example's contribution."""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Estimate(NamedTuple):
    """A value with the ends of its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Outcome:
    """Each example's contribution to a metric, from which the metric of any resample follows.

    Attributes:
        statistic: how the examples are combined to the metric: a key of
            :data:`axsearch.statistics.metrics.STATISTICS`.
        values: one row per example, (examples, columns), or (examples,) for one column; booleans
            if an example is either right or wrong.
    """

    statistic: str
    values: NDArray[Any]

    def __len__(self) -> int:
        return len(self.values)

    def packed(self) -> bytes:
        """The values as bytes: NumPy's own format, compressed."""
        return packed(self.values)

    @classmethod
    def unpacked(cls, statistic: str, data: bytes) -> Outcome:
        """Read what :meth:`packed` wrote; never runs code from the bytes."""
        return cls(statistic, unpacked(data))


def packed(values: NDArray[Any]) -> bytes:
    """An array as bytes: NumPy's own format, compressed."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, values, allow_pickle=False)
    return zlib.compress(buffer.getvalue())


def unpacked(data: bytes) -> NDArray[Any]:
    """Read what :func:`packed` wrote; never runs code from the bytes."""
    array: NDArray[Any] = np.lib.format.read_array(
        io.BytesIO(zlib.decompress(data)), allow_pickle=False
    )
    return array
