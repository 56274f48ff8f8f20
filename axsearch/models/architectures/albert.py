"""ALBERT."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from axsearch.errors import UsageError
from axsearch.models.architectures.base import Architecture
from axsearch.models.architectures.modeling import albert as modeling


class Albert(Architecture):
    """ALBERT: a site is a group of layers that share their parameters, so they share choices."""

    model_types = ("albert",)
    modeling_module = modeling.__name__
    layout = modeling.LAYOUT
    positions = "embeddings.position_embeddings"

    def layers(self, model: PreTrainedModel) -> nn.ModuleList:
        """The groups; raises UsageError where a group holds more than one layer."""
        if model.config.inner_group_num != 1:
            raise UsageError(
                f"ALBERT with inner_group_num {model.config.inner_group_num} is not supported; "
                "its groups must hold one layer each."
            )
        return super().layers(model)

    def config_of(self, config: PreTrainedConfig, layers: Sequence[int]) -> dict[str, Any]:
        """No entries: groups keep their place, and are run as often as before."""
        return {}

    def stays(self, config: PreTrainedConfig, layer: int, lost: Collection[int]) -> bool:
        """Always: the config says which group runs when."""
        return True

    def repeats(self, config: PreTrainedConfig, layer: int) -> int:
        """How many layers are runs of this group."""
        every = config.num_hidden_layers / config.num_hidden_groups
        return sum(int(run / every) == layer for run in range(config.num_hidden_layers))
