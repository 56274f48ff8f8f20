"""The layer groups of ALBERT: post-norm, each group run by several layers."""

from __future__ import annotations

from typing import Any

from torch import nn

from axsearch.approximations.modeling import Block, encoder_layout
from axsearch.models.architectures.modeling.blocks import NormOnly, Nothing


def remove_attention(group: Any) -> None:
    """Leave ``LayerNorm(x)``."""
    layer = group.albert_layers[0]
    layer.attention = NormOnly(layer.attention.LayerNorm)


def remove_ffn(group: Any) -> None:
    """Leave ``LayerNorm(x + 0)``."""
    layer = group.albert_layers[0]
    layer.ffn = layer.activation = nn.Identity()
    layer.ffn_output = Nothing()


class EmptyGroup(nn.Module):
    """Replaces a group that has lost both blocks: the hidden state passes unchanged."""

    def forward(self, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
        """(batch, length, hidden) in and out."""
        return hidden_states


LAYOUT = encoder_layout(
    "encoder.albert_layer_groups",
    attention=Block(
        (
            "albert_layers.0.attention.query",
            "albert_layers.0.attention.key",
            "albert_layers.0.attention.value",
        ),
        "albert_layers.0.attention.dense",
        remove_attention,
        units="num_attention_heads",
        core="albert_layers.0.attention",
        counts=("num_attention_heads",),
        widths=("all_head_size",),
    ),
    ffn=Block(
        ("albert_layers.0.ffn",),
        "albert_layers.0.ffn_output",
        remove_ffn,
        activation="albert_layers.0.activation",
    ),
    empty_layer=EmptyGroup,
    outside={"embeddings": Block(("embeddings.word_embeddings",))},
)
