"""Importance of heads and neurons: Fisher information on gates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from axsearch.approximations import removal
from axsearch.approximations.choices import Kept
from axsearch.approximations.site import Site, SiteId
from axsearch.models.base_model import Base
from axsearch.space.recipe import Compensation, Recipe
from axsearch.tasks.kinds import TaskKind
from axsearch.tasks.split import Split

BATCH_SIZE = 32

PATH = (0.15, 0.3, 0.45, 0.6, 0.75)
"""Shares of the removable parameters at which units are scored again."""


@dataclass(frozen=True)
class Importance:
    """How important the units of each site are.

    Attributes:
        scores: those in the base, (units,) each; the higher, the more important.
        orders: the units of each site, least important first, where that is more than the order of
            the scores; a site that is not there follows its scores.
    """

    scores: Mapping[SiteId, NDArray[np.float64]]
    orders: Mapping[SiteId, tuple[int, ...]] = field(default_factory=dict)

    def order(self, site: SiteId) -> tuple[int, ...]:
        """The site's units, least important first."""
        if site in self.orders:
            return self.orders[site]
        return tuple(int(unit) for unit in np.argsort(self.scores[site], kind="stable"))

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "scores": {str(site): scores.tolist() for site, scores in self.scores.items()},
            "orders": {str(site): list(order) for site, order in self.orders.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Importance:
        """Read what :meth:`to_dict` wrote."""
        return cls(
            {SiteId.parse(site): np.array(scores) for site, scores in data["scores"].items()},
            {SiteId.parse(site): tuple(order) for site, order in data["orders"].items()},
        )


def importance_along_path(
    base: Base,
    split: Split,
    kind: TaskKind[Any, Any],
    shrink: Callable[[Recipe], PreTrainedModel],
    compensation: Compensation,
    *,
    device: str = "cpu",
    on_batch: Callable[[int], None] | None = None,
) -> Importance:
    """The order in which units go when they are scored again along the way.

    Scores of the base say little of a model that has lost half of its units: TextPruner reports 45
    against 92 % accuracy for one and for sixteen rounds of scoring (arXiv 2203.15996, section on
    iterative pruning). Here the units with the least importance per parameter go, whatever their
    site, up to each share of :data:`PATH`, each site keeping at least one; those that are left are
    then scored in the smaller model, of which ``shrink`` makes what a trial would. ``on_batch`` is
    told how many examples were done, of ``len(split) * (1 + len(PATH))`` in all.
    """
    sites = {i: site for i, site in base.sites.items() if _removal(site) is not None}
    total = sum(s.count * s.unit_parameters for s in sites.values())
    first = fisher_importance(base, split, kind, device=device, on_batch=on_batch)
    scores = dict(first.scores)
    left = {site_id: np.arange(site.count) for site_id, site in sites.items()}
    gone: dict[SiteId, list[int]] = {site_id: [] for site_id in sites}
    for share in PATH:
        candidates = sorted(
            (scores[i][unit] / sites[i].unit_parameters, i, int(unit))
            for i in sites
            for unit in left[i]
        )
        budget = share * total - sum(len(g) * sites[i].unit_parameters for i, g in gone.items())
        for _, site_id, unit in candidates:
            cost = sites[site_id].unit_parameters
            if budget < cost:
                break
            if sites[site_id].count - len(gone[site_id]) > 1:
                gone[site_id].append(unit)
                budget -= cost
        left = {i: np.setdiff1d(np.arange(s.count), gone[i]) for i, s in sites.items()}
        recipe = Recipe.of(
            {
                i: {str(_removal(s)): Kept(of=s.count, kept=tuple(map(int, left[i])))}
                for i, s in sites.items()
            },
            compensation,
        )
        counts = {site_id: len(units) for site_id, units in left.items()}
        again = fisher_importance(
            base, split, kind, small=shrink(recipe), counts=counts, device=device, on_batch=on_batch
        )
        for site_id, units in left.items():
            scores[site_id] = scores[site_id].copy()
            scores[site_id][units] = again.scores[site_id]
    orders = {
        i: (*gone[i], *map(int, left[i][np.argsort(scores[i][left[i]], kind="stable")]))
        for i in sites
    }
    return Importance(first.scores, orders)


def fisher_importance(
    base: Base,
    split: Split,
    kind: TaskKind[Any, Any],
    *,
    small: PreTrainedModel | None = None,
    counts: Mapping[SiteId, int] | None = None,
    device: str = "cpu",
    on_batch: Callable[[int], None] | None = None,
) -> Importance:
    """The diagonal of the empirical Fisher information of a gate on each head and neuron.

    The score is the sum over examples of the squared derivative that :func:`gate_slopes` gives.
    Half of it estimates the loss that closing the gate costs, where the model has converged (mean
    gradient near zero) and the Hessian is taken to be the empirical Fisher information (Kwon et al.
    2022, arXiv 2204.09656, section on Fisher-based mask search). The arguments are those of
    :func:`gate_slopes`.
    """
    counts = _counts(base) if counts is None else counts
    scores = {site: np.zeros(count) for site, count in counts.items()}

    def add(rows: NDArray[np.int64], site: SiteId, slopes: Tensor) -> None:
        scores[site] += slopes.double().square().sum(0).numpy()

    # Batch by batch: the sum takes a small part of the memory of every example's slopes.
    _each_batch(base, small or base.model, split, kind, counts, device, on_batch, add)
    return Importance(scores)


def gate_slopes(
    base: Base,
    split: Split,
    kind: TaskKind[Any, Any],
    *,
    small: PreTrainedModel | None = None,
    counts: Mapping[SiteId, int] | None = None,
    device: str = "cpu",
    on_batch: Callable[[int], None] | None = None,
) -> dict[SiteId, NDArray[np.float32]]:
    """The derivative of each example's loss by a gate on each head and neuron.

    Each head's and neuron's output is multiplied by a gate of one. Gates are one an example, so one
    backward pass of a batch yields every example's derivative. It is the base's own where no
    ``small`` model of it is passed with ``counts``, the units that its sites have left, by the
    numbers that its own layers have. ``on_batch`` receives the number of examples of each batch.

    For each site (features of the split, in its order; units): 148 kB a feature for BERT-base.
    """
    counts = _counts(base) if counts is None else counts
    found = {s: np.zeros((len(split), count), dtype=np.float32) for s, count in counts.items()}

    def keep(rows: NDArray[np.int64], site: SiteId, slopes: Tensor) -> None:
        found[site][rows] = slopes.numpy()

    _each_batch(base, small or base.model, split, kind, counts, device, on_batch, keep)
    return found


def _counts(base: Base) -> dict[SiteId, int]:
    return {site.id: site.count for site in base.sites.values() if site.units is not None}


def _removal(site: Site) -> str | None:
    """The name under which a recipe says which units of a site stay; None if none can go."""
    approximation = removal(site.id.kind)
    return None if approximation is None or site.units is None else approximation.name


def _each_batch(
    base: Base,
    model: PreTrainedModel,
    split: Split,
    kind: TaskKind[Any, Any],
    counts: Mapping[SiteId, int],
    device: str,
    on_batch: Callable[[int], None] | None,
    take: Callable[[NDArray[np.int64], SiteId, Tensor], None],
) -> None:
    """Give ``take`` each batch's positions in the split, and a site's slopes, (batch, units)."""
    modules = {site: gate for site, gate in base.gates(model).items() if site in counts}
    gates: dict[SiteId, Tensor] = {}

    def gate(site: SiteId, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, count = inputs[0], counts[site]
        if site not in gates:  # layers that share their parameters share a gate
            gates[site] = torch.ones(len(hidden), 1, count, 1, device=device, requires_grad=True)
        return ((hidden.unflatten(-1, (count, -1)) * gates[site]).flatten(-2), *inputs[1:])

    required = [parameter for parameter in model.parameters() if parameter.requires_grad]
    hooks = [
        module.register_forward_pre_hook(partial(gate, site)) for site, module in modules.items()
    ]
    try:
        for parameter in required:
            parameter.requires_grad_(False)
        for rows, batch in split.batches(BATCH_SIZE):
            gates.clear()
            outputs = model(**{key: tensor.to(device) for key, tensor in batch.items()})
            loss = kind.loss(outputs, split.collate_targets(rows).to(device))
            for site, slope in zip(
                gates, torch.autograd.grad(loss, list(gates.values())), strict=True
            ):
                take(rows, site, slope.cpu().flatten(1))
            if on_batch is not None:
                on_batch(len(rows))
    finally:
        for hook in hooks:
            hook.remove()
        for parameter in required:
            parameter.requires_grad_(True)
