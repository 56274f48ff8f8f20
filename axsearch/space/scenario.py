"""Scenario: what latency is measured for, as plain data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

RUNTIME, PRECISION = "torch", "float32"
"""The runtime and precision where no others are asked for, in which trials are evaluated."""

QUANTIZED = 1
"""The way in which models are brought to other precisions; another way has other accuracies."""

_TYPES: Mapping[str, Any] = {
    "batch_size": int,
    "sequence_length": int | None,
    "threads": int | None,
    "device": str,
    "runtime": str,
    "precision": str,
}


@dataclass(frozen=True)
class Scenario:
    """What latency is measured for.

    Any name of a runtime or precision is accepted here, so that a study can be read where its
    runtime is not installed. :func:`axsearch.runtimes.check` refuses unknown ones.

    Attributes:
        batch_size: examples a batch.
        sequence_length: tokens an example, random ones. None means the examples' own lengths:
            batches taken at even steps of the search split sorted by length, each padded to its
            longest example.
        threads: of the runtime; its own default if None.
        device: cpu, cuda or mps.
        runtime: a name of :func:`axsearch.runtimes.runtimes`.
        precision: one of that runtime's.
    """

    batch_size: int = 32
    sequence_length: int | None = None
    threads: int | None = None
    device: str = "cpu"
    runtime: str = RUNTIME
    precision: str = PRECISION

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Scenario:
        """Read what :meth:`to_dict` wrote, in this version or before there were runtimes.

        At that time ``dtype`` stood in place of runtime and precision. Raises ValueError for
        anything else: an entry too many or too few, of another type, or a number below 1.
        """
        given = dict(data)
        if "dtype" in given and not {"runtime", "precision"} & set(given):
            given |= {"runtime": RUNTIME, "precision": given.pop("dtype")}
        if set(given) != set(_TYPES) or not all(
            isinstance(value := given[name], kind)
            and (not isinstance(value, int) or (value > 0 and value is not True))
            for name, kind in _TYPES.items()
        ):
            raise ValueError(f"scenario holds {', '.join(_TYPES)}")
        return cls(**given)

    def to_dict(self) -> dict[str, int | str | None]:
        """As plain data."""
        return asdict(self)

    @property
    def is_reference(self) -> bool:
        """Whether it is for PyTorch in float32, in which accuracy is evaluated anyway."""
        return (self.runtime, self.precision) == (RUNTIME, PRECISION)

    def served(self, weights: str, calibration: str) -> str:
        """The key of weights as the runtime runs them in this precision.

        Args:
            weights: their key, see :class:`axsearch.models.weights.Weights`.
            calibration: the fingerprint of the calibration split, whose examples set int8's ranges.
        """
        if self.is_reference:
            return weights
        words = f"{weights} {calibration} {self.runtime} {self.precision} {QUANTIZED}"
        return hashlib.sha256(words.encode()).hexdigest()

    @property
    def key(self) -> str:
        """The part of a scenario in the fingerprints of measurements for it."""
        given = self.to_dict()
        if (self.runtime, self.precision) == (RUNTIME, PRECISION):
            # Databases hold latencies under what this was before there were runtimes.
            del given["runtime"]
            given["dtype"] = given.pop("precision")
        return repr(sorted(given.items()))


def in_words(scenario: Scenario) -> str:
    """What latency is measured for."""
    length, threads = scenario.sequence_length, scenario.threads
    runtime = "" if scenario.runtime == RUNTIME else f"{scenario.runtime} "
    return (
        f"batches of {scenario.batch_size}, "
        f"{'the examples at their own lengths' if length is None else f'{length} tokens'}, "
        f"{threads} thread{'' if threads == 1 else 's'}, "
        f"{scenario.device}, {runtime}{scenario.precision}"
    )
