"""DeBERTa-v2 and DeBERTa-v3."""

from __future__ import annotations

from collections.abc import Collection
from types import MappingProxyType

from transformers import PreTrainedConfig

from axsearch.approximations.site import SELECTABLE_SCORES
from axsearch.models.architectures.base import Architecture
from axsearch.models.architectures.modeling import deberta_v2 as modeling


class DebertaV2(Architecture):
    """DeBERTa-v2/v3: post-norm layers, scores that add content and position (disentangled)."""

    model_types = ("deberta-v2",)
    modeling_module = modeling.__name__
    layout = modeling.LAYOUT
    lacks = MappingProxyType(
        {SELECTABLE_SCORES: "disentangled attention adds to scores that it makes itself"}
    )
    attention = "eager"

    def stays(self, config: PreTrainedConfig, layer: int, lost: Collection[int]) -> bool:
        """Keep the first layer before a convolution, and where all are lost, as one is needed."""
        convolved = getattr(config, "conv_kernel_size", 0) > 0
        return layer == 0 and (convolved or len(lost) == config.num_hidden_layers)
