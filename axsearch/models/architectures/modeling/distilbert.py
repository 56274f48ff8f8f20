"""The layers of DistilBERT: post-norm, with the norms beside the blocks."""

from __future__ import annotations

from typing import Any

from axsearch.models.architectures.modeling.blocks import Block, Layout, NoAttention, Nothing


def remove_attention(layer: Any) -> None:
    """Leave ``LayerNorm(x + 0)``."""
    layer.attention = NoAttention()


def remove_ffn(layer: Any) -> None:
    """Leave ``LayerNorm(x + 0)``."""
    layer.ffn = Nothing()


LAYOUT = Layout(
    layers="transformer.layer",
    attention=Block(("attention.q_lin", "attention.k_lin", "attention.v_lin"), "attention.out_lin"),
    ffn=Block(("ffn.lin1",), "ffn.lin2"),
    core="attention",
    activation="ffn.activation",
    remove_attention=remove_attention,
    remove_ffn=remove_ffn,
    heads=("n_heads",),
    width=("dim",),
)
