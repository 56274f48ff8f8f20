"""Importance of heads and neurons: Fisher information on gates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from axsearch.architectures import architecture_of
from axsearch.recipe import SiteId
from axsearch.surgery import sites_by_id
from axsearch.task import Split
from axsearch.tasks import TaskKind

BATCH_SIZE = 32


@dataclass(frozen=True)
class Importance:
    """For each site the scores of its units, (units,); the higher, the more important."""

    scores: Mapping[SiteId, NDArray[np.float64]]

    def order(self, site: SiteId) -> tuple[int, ...]:
        """The site's units, least important first."""
        return tuple(int(unit) for unit in np.argsort(self.scores[site], kind="stable"))

    def to_dict(self) -> dict[str, list[float]]:
        """As plain data."""
        return {str(site): scores.tolist() for site, scores in self.scores.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, list[float]]) -> Importance:
        """Read what :meth:`to_dict` wrote."""
        return cls({SiteId.parse(site): np.array(scores) for site, scores in data.items()})


def fisher_importance(
    model: PreTrainedModel,
    split: Split,
    kind: TaskKind[Any, Any],
    *,
    device: str = "cpu",
    on_batch: Callable[[int], None] | None = None,
) -> Importance:
    """The diagonal of the empirical Fisher information of a gate on each head and neuron.

    Each head's and neuron's output is multiplied by a gate of one; the score is the sum over
    examples of the squared derivative of the example's loss by that gate. Half of it estimates
    the loss that closing the gate costs, where the model has converged (mean gradient near zero)
    and the Hessian is taken to be the empirical Fisher information (Kwon et al. 2022,
    arXiv 2204.09656, section on Fisher-based mask search). Gates are one an example, so one
    backward pass of a batch gives every example's derivative. ``on_batch`` is told how many
    examples were done.
    """
    family = architecture_of(model.config.model_type)
    sites = sites_by_id(model)
    modules: dict[SiteId, nn.Module] = {}
    for layer, (heads, neurons) in enumerate(family.gates(model)):
        modules[SiteId(layer, "attention")] = heads
        modules[SiteId(layer, "ffn")] = neurons
    scores = {site: np.zeros(sites[site].units.count) for site in modules}
    gates: dict[SiteId, Tensor] = {}

    def gate(site: SiteId, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, count = inputs[0], sites[site].units.count
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
                scores[site] += slope.cpu().double().square().sum(0).flatten().numpy()
            if on_batch is not None:
                on_batch(len(rows))
    finally:
        for hook in hooks:
            hook.remove()
        for parameter in required:
            parameter.requires_grad_(True)
    return Importance(scores)
