"""Another alternative to a search: K-prune (Park et al., ICLR 2024), one mask for each budget.

"Accurate Retraining-free Pruning for Pretrained Encoder-based Language Models" (arXiv 2308.03449),
implemented from the paper without its authors' code. Blocks are pruned from the bottom up, each in
three steps:

1. Knowledge measurement, in the model as pruned so far: for every unit that is still open, half the
   Fisher information of its gate with labels that the base draws, which is the curvature of the KL
   divergence from the base's answers, and the energy of what the unit adds to the residual stream.
2. Knowledge-preserving mask search: of all open units those with the most knowledge for their
   multiply-adds stay, as many as the budget has room for. Only the lowest open block is cut.
3. Knowledge-preserving weight-tuning: least squares of the block's output weights, without a ridge,
   to the base's residual stream after the block, which is what
   :class:`axsearch.models.refit.sequential.SequentialRefit` does with tokens that count alike.

The budget here is a latency, of any function of a recipe: methods are compared at equal latency.
Energies have no scale in common with divergences; ``energy`` is their weight once both have the
same mean. ``heads`` is the paper's mu.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from kwon import NAMES, multiply_adds
from numpy.typing import NDArray
from transformers import PreTrainedModel

from axsearch.approximations.choices import Kept
from axsearch.approximations.site import Site, SiteId
from axsearch.calibration.importance import gate_slopes
from axsearch.models.base_model import Base
from axsearch.models.refit.compensation import Moments
from axsearch.space.recipe import Recipe
from axsearch.tasks.split import Split

GRAIN = 32
"""Numbers of neurons are multiples of it, as those of a search's levels are."""


class Balance(NamedTuple):
    """How kinds of knowledge and of units are weighed."""

    energy: float
    heads: float


def energies(base: Base, moments: Moments) -> dict[SiteId, NDArray[np.float64]]:
    """The mean square of what each unit adds to the residual stream of the base, (units,)."""
    found = {}
    for id, site in base.sites.items():
        if site.units is None:
            continue
        width, mean = site.units.width, moments.mean[id]
        weight = base.state[site.units.output.tensor].double()
        weight = (weight.T if site.units.output.dim == 1 else weight).unflatten(0, (-1, width))
        second = moments.covariance[id].double() + mean.outer(mean)
        second = second.unflatten(0, (-1, width)).unflatten(2, (-1, width))
        own = second.diagonal(dim1=0, dim2=2).permute(2, 0, 1)  # (units, width, width)
        found[id] = ((own @ weight) * weight).sum((1, 2)).numpy()
    return found


def allocate(
    base: Base,
    kind: Any,
    sample: Split,
    energy: Mapping[SiteId, NDArray[Any]],
    shrink: Callable[[Recipe], PreTrainedModel],
    latency: Callable[[Recipe], float],
    budgets: Iterable[float],
    balance: Balance,
) -> dict[float, Recipe]:
    """The recipe of each budget.

    Args:
        base: the fine-tuned model.
        kind: of the task.
        sample: examples whose targets the base drew.
        energy: of :func:`energies`.
        shrink: tunes and makes the model of a recipe.
        latency: of a recipe, as a share of the base's.
        budgets: the most that it may be.
        balance: of kinds of knowledge and of units.
    """
    sites = {id: site for id, site in base.sites.items() if site.units}
    first = _knowledge(base, kind, sample, base.model, {}, sites)
    found = {}
    for budget in budgets:
        done: dict[SiteId, Kept] = {}
        for id in sites:
            knowledge = {other: first[other] for other in sites if other not in done}
            if any(kept.kept != (*range(kept.of),) for kept in done.values()):
                small = shrink(_recipe(done))
                knowledge = _knowledge(base, kind, sample, small, done, sites)
            scores = _scores(sites, knowledge, energy, balance, float(np.mean(sample.lengths)))
            done[id] = _search(sites, scores, done, latency, budget)[id]
        found[budget] = _recipe(done)
    return found


def _knowledge(
    base: Base,
    kind: Any,
    sample: Split,
    small: PreTrainedModel,
    done: Mapping[SiteId, Kept],
    sites: Mapping[SiteId, Site],
) -> dict[SiteId, NDArray[np.float64]]:
    """The predictive knowledge of the units of the blocks that are open, (units,) a site."""
    place = {layer: number for number, layer in enumerate(base.plan(_recipe(done)).layers)}
    there = {SiteId(place[id.layer], id.kind): id for id in sites if id not in done}
    counts = {new: sites[id].count for new, id in there.items()}
    slopes = gate_slopes(base, sample, kind, small=small, counts=counts)
    return {id: np.square(slopes[new], dtype=np.float64).mean(0) / 2 for new, id in there.items()}


def _scores(
    sites: Mapping[SiteId, Site],
    knowledge: Mapping[SiteId, NDArray[Any]],
    energy: Mapping[SiteId, NDArray[Any]],
    balance: Balance,
    length: float,
) -> list[tuple[float, SiteId, int]]:
    """Open units with their knowledge for their multiply-adds, the most first."""
    own = np.concatenate([*knowledge.values()]).mean()
    theirs = np.concatenate([energy[id] for id in knowledge]).mean()
    scale = balance.energy * own / theirs if theirs > 0 else 0.0
    found = []
    for id, divergence in knowledge.items():
        factor = balance.heads if id.kind == "attention" else 1.0
        values = factor * (divergence + scale * energy[id]) / multiply_adds(sites[id], length)
        found += [(float(value), id, unit) for unit, value in enumerate(values)]
    return sorted(found, key=lambda one: -one[0])


def _search(
    sites: Mapping[SiteId, Site],
    scores: list[tuple[float, SiteId, int]],
    done: Mapping[SiteId, Kept],
    latency: Callable[[Recipe], float],
    budget: float,
) -> dict[SiteId, Kept]:
    """What open blocks keep if as many units stay as the budget has room for."""

    def masks(count: int) -> dict[SiteId, Kept]:
        units: dict[SiteId, list[int]] = {id: [] for id in sites if id not in done}
        for _, id, unit in scores[:count]:
            units[id].append(unit)
        for _, id, unit in scores[count:]:  # neurons that fill the last grain
            if id.kind == "ffn" and len(units[id]) % GRAIN:
                units[id].append(unit)
        return {id: Kept(of=sites[id].count, kept=tuple(sorted(own))) for id, own in units.items()}

    least, most = 0, len(scores)
    while least < most:
        middle = (least + most + 1) // 2
        if latency(_recipe({**done, **masks(middle)})) <= budget:
            least = middle
        else:
            most = middle - 1
    return masks(least)


def _recipe(kept: Mapping[SiteId, Kept]) -> Recipe:
    """Of what blocks keep; those that keep all are exact."""
    cut = {id: {NAMES[id.kind]: own} for id, own in kept.items() if len(own.kept) < own.of}
    return Recipe.of(cut, "sequential" if cut else "none")
