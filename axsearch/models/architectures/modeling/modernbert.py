"""The layers of ModernBERT: pre-norm, fused query-key-value projection, gated FFN."""

from __future__ import annotations

from typing import Any

from torch import nn

from axsearch.approximations.modeling import Block, Position, encoder_layout
from axsearch.models.architectures.modeling.blocks import NoAttention, Nothing


def remove_attention(layer: Any) -> None:
    """Leave the residual alone."""
    layer.attn, layer.attn_norm = NoAttention(), nn.Identity()


def remove_ffn(layer: Any) -> None:
    """Leave the residual alone."""
    layer.mlp, layer.mlp_norm = Nothing(), nn.Identity()


def finish(layer: Any, position: Position, config: Any) -> None:
    """Give a layer that became the first its norm back, which the base's first layer lacks."""
    removed = "attention" in position.removed
    if not removed and position.layer and isinstance(layer.attn_norm, nn.Identity):
        layer.attn_norm = nn.LayerNorm(
            config.hidden_size, eps=config.norm_eps, bias=config.norm_bias
        )


LAYOUT = encoder_layout(
    "layers",
    attention=Block(
        ("attn.Wqkv",),
        "attn.Wo",
        remove_attention,
        parts=3,
        norm="attn_norm",
        units="num_attention_heads",
        core="attn",
    ),
    ffn=Block(("mlp.Wi",), "mlp.Wo", remove_ffn, parts=2, norm="mlp_norm", activation="mlp.act"),
    finish=finish,
)
