"""Another alternative to a search: K-prune (Park et al., ICLR 2024), one mask for each budget.

"Accurate Retraining-free Pruning for Pretrained Encoder-based Language Models" (arXiv 2308.03449),
implemented from the paper without its authors' code. Blocks are pruned from the bottom up, each in
three steps:

1. Knowledge measurement, in the model as pruned so far, of every unit that is still open: half the
   expected square of the gradient of its gate, over the labels that the base gives with their
   probabilities (Fisher information, which is the curvature of the KL divergence where the model
   answers as the base), and the energy of what the unit adds to the residual stream.
2. Knowledge-preserving mask search: of all open units those with the most knowledge for their
   multiply-adds stay, as many as the budget has room for. Only the lowest open block is cut.
3. Knowledge-preserving weight-tuning: least squares of the output weights of every block, without a
   ridge, to the base's residual stream after the block: :class:`Tuning`.

The budget here is a latency, by any function of a recipe: methods are compared at equal latency.
Energies have no scale in common with divergences; ``energy`` is their weight once both have the
same mean, and ``heads`` the factor of heads (the paper's lambda and mu). The paper's temperature is
1 here, and biases are tuned as well.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from kwon import NAMES, multiply_adds
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from axsearch.approximations.choices import Kept
from axsearch.approximations.site import Site, SiteId
from axsearch.calibration.importance import gate_slopes
from axsearch.models.base_model import Base
from axsearch.models.refit.sequential import SequentialRefit
from axsearch.space.recipe import Recipe
from axsearch.tasks.split import Split

GRAIN = 32
"""Numbers of neurons are multiples of it, as those of a search's levels are."""


class Balance(NamedTuple):
    """How kinds of knowledge and of units are weighed."""

    energy: float
    heads: float


class Knowledge(NamedTuple):
    """What open units hold, (units,) a site: divergence and energy."""

    divergence: Mapping[SiteId, NDArray[np.float64]]
    energy: Mapping[SiteId, NDArray[np.float64]]


class Tuning(SequentialRefit):
    """Refits the outputs of every block that is left, from the first that was cut on."""

    inputs = False

    def fits(self, recipe: Recipe, site: SiteId) -> bool:
        """Whether a block is refitted."""
        known = self.base.sites.get(site)
        if known is None or known.units is None or recipe.removed(*site):
            return False
        return site >= min(other for other, _, _ in recipe.choices())  # attention before ffn


def weighted(base: Base, split: Split) -> list[tuple[Split, NDArray[np.float64]]]:
    """A split with each label that the base may give, and how likely it gives it, (features,).

    Of a regression the label is one off the base's answer, so that slopes are its answer's.
    """
    targets = np.asarray(split.targets)
    answers = np.empty((len(split), base.model.config.num_labels))
    with torch.inference_mode():
        for rows in split.groups(np.arange(len(split)), 32):
            answers[rows] = base.model(**split.collate(rows)).logits.double().numpy()
    if not np.issubdtype(targets.dtype, np.integer):
        off = (answers[:, 0] - 1).astype(targets.dtype)
        return [(replace(split, targets=off), np.ones(len(split)))]
    shares = torch.from_numpy(answers).softmax(-1).numpy()
    return [
        (replace(split, targets=np.full_like(targets, label)), shares[:, label])
        for label in range(shares.shape[1])
    ]


def allocate(
    base: Base,
    kind: Any,
    labelled: Sequence[tuple[Split, NDArray[np.float64]]],
    shrink: Callable[[Recipe], PreTrainedModel],
    latency: Callable[[Recipe], float],
    budget: float,
    balances: Iterable[Balance],
) -> list[Recipe | None]:
    """The recipe of each balance; None where no mask keeps the budget.

    Args:
        base: the fine-tuned model.
        kind: of the task.
        labelled: of :func:`weighted`.
        shrink: tunes and makes the model of a recipe.
        latency: of a recipe, as a share of the base's.
        budget: the most that it may be.
        balances: of kinds of knowledge and of units.
    """
    sites = {id: site for id, site in base.sites.items() if site.units}
    length = float(np.mean(labelled[0][0].lengths))
    first, found = measure(base, kind, labelled, base.model, {}, sites), []
    for balance in balances:
        done: dict[SiteId, Kept] = {}
        for id in sites:
            known = first
            if any(len(kept.kept) < kept.of for kept in done.values()):
                known = measure(base, kind, labelled, shrink(_recipe(done)), done, sites)
            scores = _scores(sites, known, done, balance, length)
            done[id] = _search(sites, scores, done, latency, budget)[id]
        found.append(_recipe(done) if latency(_recipe(done)) <= budget else None)
    return found


def measure(
    base: Base,
    kind: Any,
    labelled: Sequence[tuple[Split, NDArray[np.float64]]],
    small: PreTrainedModel,
    done: Mapping[SiteId, Kept],
    sites: Mapping[SiteId, Site],
) -> Knowledge:
    """The knowledge of the units of the blocks that are open."""
    place = {layer: number for number, layer in enumerate(base.plan(_recipe(done)).layers)}
    there = {SiteId(place[id.layer], id.kind): id for id in sites if id not in done}
    counts = {new: sites[id].count for new, id in there.items()}
    divergence = {id: np.zeros(sites[id].count) for id in there.values()}
    for split, likely in labelled:
        slopes = gate_slopes(base, split, kind, small=small, counts=counts)
        for new, id in there.items():
            squares = np.square(slopes[new], dtype=np.float64)
            divergence[id] += (likely[:, None] * squares).mean(0) / 2
    found = energies(base, small, labelled[0][0], {new: sites[id] for new, id in there.items()})
    return Knowledge(divergence, {id: found[new] for new, id in there.items()})


def energies(
    base: Base, small: PreTrainedModel, split: Split, sites: Mapping[SiteId, Site]
) -> dict[SiteId, NDArray[np.float64]]:
    """The mean square, over tokens, of what each unit adds to the residual stream, (units,).

    ``sites`` have all their units in ``small``, by the numbers of its own layers.
    """
    sums, modules, tokens = {}, base.gates(small), int(split.lengths.sum())
    mask: list[Tensor] = []

    def see(id: SiteId, _: nn.Module, inputs: Any) -> None:
        own = inputs[0][mask[0]].unflatten(-1, (-1, sites[id].units.width))
        sums[id] = sums.get(id, 0) + torch.einsum("tuv,tuw->uvw", own, own).double()

    hooks = [modules[id].register_forward_pre_hook(partial(see, id)) for id in sites]
    try:
        with torch.no_grad():
            for rows in split.groups(np.arange(len(split)), 32):
                batch = split.collate(rows)
                mask[:] = [batch["attention_mask"].bool()]
                small(**batch)
    finally:
        for hook in hooks:
            hook.remove()
    found = {}
    for id, second in sums.items():
        output = sites[id].units.output
        weight = base.state[output.tensor].double()
        weight = (weight.T if output.dim == 1 else weight).unflatten(0, (-1, second.shape[-1]))
        found[id] = ((second @ weight) * weight).sum((1, 2)).numpy() / tokens
    return found


def _scores(
    sites: Mapping[SiteId, Site],
    known: Knowledge,
    done: Mapping[SiteId, Kept],
    balance: Balance,
    length: float,
) -> list[tuple[float, SiteId, int]]:
    """Open units with their knowledge for their multiply-adds, the most first."""
    divergence = {id: own for id, own in known.divergence.items() if id not in done}
    own = np.concatenate([*divergence.values()]).mean()
    theirs = np.concatenate([known.energy[id] for id in divergence]).mean()
    scale = balance.energy * own / theirs if theirs > 0 else 0.0
    found = []
    for id, values in divergence.items():
        factor = balance.heads if id.kind == "attention" else 1.0
        values = factor * (values + scale * known.energy[id]) / multiply_adds(sites[id], length)
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
