"""The runtimes, one file each; a file in this folder is found by being there."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from transformers import PreTrainedModel

from axsearch import discovery
from axsearch.errors import UsageError
from axsearch.runtimes.base import Inputs, Runtime, Session
from axsearch.space.scenario import Scenario

__all__ = ["Runtime", "Session", "check", "open_session", "runtimes"]


@functools.cache
def runtimes() -> Mapping[str, Runtime]:
    """Every runtime by name, in alphabetical order."""
    found = [member() for member in discovery.classes(sys.modules[__name__], Runtime)]  # type: ignore[type-abstract]
    return MappingProxyType({one.name: one for one in sorted(found, key=lambda one: one.name)})


def check(runtime: str, precision: str) -> None:
    """Raises UsageError for a runtime that is not there or not installed, or a precision that it
    does not have.
    """
    if runtime not in runtimes():
        raise UsageError(
            f"Runtime {runtime!r} is not in this version; choose {', '.join(runtimes())}."
        )
    precisions = runtimes()[runtime].precisions
    if precision not in precisions:
        raise UsageError(
            f"Runtime {runtime} has no precision {precision!r}; choose {', '.join(precisions)}."
        )
    lacking = runtimes()[runtime].missing(precision)
    if lacking is not None:
        raise UsageError(f"Runtime {runtime} in {precision} cannot be used: {lacking}.")


def open_session(
    model: PreTrainedModel | Path,
    scenario: Scenario,
    examples: Sequence[Inputs] = (),
    *,
    lasting: bool = True,
) -> Session:
    """Open a model as a scenario asks for it.

    Args:
        model: in evaluation mode, or the folder of an export in the runtime's ``export_format``.
        scenario: its runtime, precision, threads and device.
        examples: inputs of one row each with which int8 is calibrated, where it has to be.
        lasting: whether what the model is converted to, where it is, is kept for later processes.

    Raises:
        UsageError: a runtime or precision that is not there, or a folder that it cannot open.
    """
    check(scenario.runtime, scenario.precision)
    runtime = runtimes()[scenario.runtime]
    more: dict[str, Any] = {"examples": examples, "lasting": lasting} if runtime.converts else {}
    return runtime.open(
        model,
        precision=scenario.precision,
        threads=scenario.threads,
        device=scenario.device,
        **more,
    )
