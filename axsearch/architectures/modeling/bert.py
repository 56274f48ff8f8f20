"""BERT with fewer heads, neurons, blocks and layers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, BertModel

from axsearch.kernels.attention_interface import ATTENTION_NAME


class NormOnlyAttention(nn.Module):
    """What a removed attention block leaves in a post-norm layer: ``LayerNorm(x)``."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.output = nn.Module()
        self.output.LayerNorm = norm

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        """(batch, length, hidden) in and out."""
        norm: Any = self.output.LayerNorm
        return norm(hidden_states), None


class NormOnlyOutput(nn.Module):
    """What a removed FFN block leaves in a post-norm layer: ``LayerNorm(x)``."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.LayerNorm = norm

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        """(batch, length, hidden) in and out; there is no intermediate state."""
        return self.LayerNorm(input_tensor)  # type: ignore[no-any-return]


def apply_shapes(bert: BertModel, shapes: list[dict[str, Any]]) -> None:
    """Give each encoder layer its own shape; new tensors are left for the caller to fill.

    ``shapes`` has one entry a layer: ``heads`` and ``ffn`` are counts (0 removes the block) and
    ``topk`` is None or ``{"value": k, "mode": "renormalised" | "hard"}``.
    """
    hidden = bert.config.hidden_size
    layer: Any
    for layer, shape in zip(bert.encoder.layer, shapes, strict=True):
        if shape["heads"] == 0:
            layer.attention = NormOnlyAttention(layer.attention.output.LayerNorm)
        else:
            attention = layer.attention.self
            width = shape["heads"] * attention.attention_head_size
            if width != attention.all_head_size:
                attention.num_attention_heads = shape["heads"]
                attention.all_head_size = width
                attention.query = nn.Linear(hidden, width)
                attention.key = nn.Linear(hidden, width)
                attention.value = nn.Linear(hidden, width)
                layer.attention.output.dense = nn.Linear(width, hidden)
            if shape["topk"] is not None:
                attention.topk = shape["topk"]["value"]
                attention.topk_mode = shape["topk"]["mode"]
                bert.config._attn_implementation = ATTENTION_NAME
        if shape["ffn"] == 0:
            layer.intermediate = nn.Identity()
            layer.output = NormOnlyOutput(layer.output.LayerNorm)
        elif shape["ffn"] != layer.intermediate.dense.out_features:
            layer.intermediate.dense = nn.Linear(hidden, shape["ffn"])
            layer.output.dense = nn.Linear(shape["ffn"], hidden)


class AxsearchBertConfig(BertConfig):
    """BertConfig whose ``axsearch`` entry holds the recipe and the shape of each layer."""

    model_type = "axsearch_bert"


class AxsearchBertForSequenceClassification(BertForSequenceClassification):
    """A BERT classifier whose layers have the shapes that its config lists."""

    config_class = AxsearchBertConfig

    def __init__(self, config: AxsearchBertConfig) -> None:
        super().__init__(config)
        apply_shapes(self.bert, config.axsearch["layers"])
