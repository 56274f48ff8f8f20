"""The layers of DistilBERT: post-norm, with the norms beside the blocks."""

from __future__ import annotations

from typing import Any

from axsearch.approximations.modeling import Block, encoder_layout
from axsearch.models.architectures.modeling.blocks import NoAttention, Nothing


def remove_attention(layer: Any) -> None:
    """Leave ``LayerNorm(x + 0)``."""
    layer.attention = NoAttention()


def remove_ffn(layer: Any) -> None:
    """Leave ``LayerNorm(x + 0)``."""
    layer.ffn = Nothing()


LAYOUT = encoder_layout(
    "transformer.layer",
    attention=Block(
        ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        "attention.out_lin",
        remove_attention,
        units="num_attention_heads",
        core="attention",
        counts=("n_heads",),
        widths=("dim",),
    ),
    ffn=Block(("ffn.lin1",), "ffn.lin2", remove_ffn, activation="ffn.activation"),
)
