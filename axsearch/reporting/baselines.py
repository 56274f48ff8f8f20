"""What pruning adds to the runtime and its precision alone, in words."""

from __future__ import annotations

from collections.abc import Sequence

from axsearch.space.recipe import EXACT, Recipe
from axsearch.statistics.measurement import Measurement
from axsearch.study.baselines import Baseline, baselines, own_baseline
from axsearch.study.study import Study


def served_words(study: Study, found: Sequence[Baseline]) -> str:
    """What the numbers of a study are relative to that is served in a runtime of its own."""
    own = own_baseline(found)
    where = study.runtime if own is None else own.words
    hashes = {Recipe.from_dict(one.recipe).hash: one.trial for one in study.front()}
    served = {*study.served(hashes), EXACT.hash}
    others = [str(trial) for recipe, trial in hashes.items() if recipe not in served]
    if not others:
        accuracies = f"The accuracies of the front are those in {where}."
    elif len(others) == len(hashes):
        accuracies = f"No model of the front was evaluated in {where}: accuracies are PyTorch's."
    else:
        accuracies = (
            f"The accuracies of the front are those in {where}; trials not evaluated there, whose "
            f"accuracies are PyTorch's: {', '.join(others)}."
        )
    return (
        f"Latency and size are relative to the base in {where}, drops are below the user's own "
        f"model. {accuracies}"
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
