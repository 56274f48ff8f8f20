"""Top-k FFN: an activation that keeps each token's k largest pre-activations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from axsearch.approximations.modeling import Modeling, Target, replace_module
from axsearch.kernels.topk_activation import topk_activation


class TopKActivation(nn.Module):
    """An FFN's activation that keeps each token's k largest pre-activations."""

    def __init__(self, activation: nn.Module, k: int) -> None:
        super().__init__()
        self.activation = activation
        self.k = k

    def forward(self, scores: Tensor) -> Tensor:
        """(..., neurons) in and out."""
        return topk_activation(scores, self.k, self.activation)


class TopKFfnModeling(Modeling):
    """Puts the activation of top-k around the block's own."""

    @classmethod
    def install(cls, target: Target, choice: Mapping[str, Any]) -> None:
        """Replace the activation."""
        name = target.block.activation
        assert name is not None
        activation = target.module.get_submodule(name)
        if isinstance(activation, TopKActivation):  # of an export that is made smaller again
            activation = activation.activation
        replace_module(target.module, name, TopKActivation(activation, choice["value"]))
