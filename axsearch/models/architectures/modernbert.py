"""ModernBERT."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from axsearch.approximations.site import ONE_TOKEN
from axsearch.models.architectures.base import Architecture
from axsearch.models.architectures.modeling import modernbert as modeling


class ModernBert(Architecture):
    """ModernBERT: pre-norm layers, fused projections, gated FFN, local and global attention."""

    model_types = ("modernbert",)
    modeling_module = modeling.__name__
    layout = modeling.LAYOUT
    embeddings = "embeddings"

    def config_of(self, config: PreTrainedConfig, layers: Sequence[int]) -> dict[str, Any]:
        """A layer keeps its kind of attention, wherever it moves."""
        kinds = [config.layer_types[layer] for layer in layers]
        return {"num_hidden_layers": len(layers), "layer_types": kinds}

    def stays(self, config: PreTrainedConfig, layer: int, lost: Collection[int]) -> bool:
        """Keep the first layer where all are lost: a config of ModernBERT needs one."""
        return layer == 0 and len(lost) == config.num_hidden_layers

    def plain(self, config: PreTrainedConfig, layers: Sequence[int]) -> bool:
        """True only with the first layer, which alone has no norm before its attention."""
        return list(layers[:1]) == [0]

    def ruled_out(self, model: PreTrainedModel) -> Mapping[str, str]:
        """A head may also read the mean of all tokens."""
        if model.config.classifier_pooling != "cls":
            return {ONE_TOKEN: "its head reads the mean of all tokens"}
        return super().ruled_out(model)
