"""DistilBERT."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

from transformers import PreTrainedConfig

from axsearch.approximations.site import FFN
from axsearch.models.architectures.base import Architecture
from axsearch.models.architectures.modeling import distilbert as modeling


class DistilBert(Architecture):
    """DistilBERT: post-norm layers, whose norms stand beside the blocks."""

    model_types = ("distilbert",)
    modeling_module = modeling.__name__
    layout = modeling.LAYOUT
    embeddings = "embeddings"
    positions = "embeddings.position_embeddings"
    widths = MappingProxyType({FFN: "hidden_dim"})

    def config_of(self, config: PreTrainedConfig, layers: Sequence[int]) -> dict[str, Any]:
        """DistilBERT's own name for the number of layers."""
        return {"n_layers": len(layers)}
