"""The layers of ViT: pre-norm, no padding."""

from __future__ import annotations

from typing import Any

from torch import nn

from axsearch.models.architectures.modeling.blocks import Block, Layout, NoAttention, Nothing


def remove_attention(layer: Any) -> None:
    """Leave the residual alone."""
    layer.attention, layer.layernorm_before = NoAttention(), nn.Identity()


def remove_ffn(layer: Any) -> None:
    """Leave the residual alone."""
    layer.mlp, layer.layernorm_after = Nothing(), nn.Identity()


LAYOUT = Layout(
    layers="layers",
    attention=Block(
        ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
        "attention.o_proj",
        norm="layernorm_before",
    ),
    ffn=Block(("mlp.fc1",), "mlp.fc2", norm="layernorm_after"),
    core="attention",
    activation="mlp.activation_fn",
    remove_attention=remove_attention,
    remove_ffn=remove_ffn,
    width=(),
)
