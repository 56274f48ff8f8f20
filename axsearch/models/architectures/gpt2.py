"""GPT-2."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

from transformers import PreTrainedConfig

from axsearch.approximations.site import FFN
from axsearch.models.architectures.base import Architecture
from axsearch.models.architectures.modeling import gpt2 as modeling


class Gpt2(Architecture):
    """GPT-2: a decoder; pre-norm layers, fused projections with (in, out) weights."""

    model_types = ("gpt2",)
    modeling_module = modeling.__name__
    layout = modeling.LAYOUT
    reads = -1
    positions = "wpe"
    widths = MappingProxyType({FFN: "n_inner"})

    def config_of(self, config: PreTrainedConfig, layers: Sequence[int]) -> dict[str, Any]:
        """GPT-2's own name for the number of layers."""
        return {"n_layer": len(layers)}

    def plain(self, config: PreTrainedConfig, layers: Sequence[int]) -> bool:
        """True where a layer's scale does not depend on its place."""
        return not config.scale_attn_by_inverse_layer_idx
