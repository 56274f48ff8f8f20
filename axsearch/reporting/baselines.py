"""What pruning adds to the runtime and its precision alone, in words."""

from __future__ import annotations

from collections.abc import Sequence

from axsearch.statistics.measurement import Measurement
from axsearch.study.baselines import Baseline, baselines, own_baseline
from axsearch.study.study import Study


def served_words(study: Study, found: Sequence[Baseline]) -> str:
    """What the numbers of a study are relative to that is served in a runtime of its own."""
    own = own_baseline(found)
    where = study.runtime if own is None else own.words
    return (
        f"Latency and size are relative to the base in {where}, drops are below the user's own "
        f"model. The accuracies of the front are those in {where}."
    )


def added_words(study: Study, member: Measurement) -> str | None:
    """What a model gains over the base in PyTorch, and what of that its runtime alone would.

    None where the study is served in PyTorch's float32, or nothing was timed.
    """
    found = baselines(study)
    own = own_baseline(found)
    slowest = next((one for one in found if one.timed.runtime == "torch" and not one.own), None)
    if own is None or slowest is None or member.latency_ratio is None:
        return None
    alone = own.measurement.latency_ratio or 1.0
    of_torch = slowest.measurement.latency_ratio or 1.0
    return (
        f"Without pruning the base in {own.words} is {of_torch / alone:.2f}x as fast as in "
        f"{slowest.words}; pruning makes that {of_torch / member.latency_ratio:.2f}x."
    )
