"""The layers of ModernBERT: pre-norm, fused query-key-value projection, gated FFN."""

from __future__ import annotations

from typing import Any

from torch import nn

from axsearch.models.architectures.modeling.blocks import Block, Layout, NoAttention, Nothing


def remove_attention(layer: Any) -> None:
    """Leave the residual alone."""
    layer.attn, layer.attn_norm = NoAttention(), nn.Identity()


def remove_ffn(layer: Any) -> None:
    """Leave the residual alone."""
    layer.mlp, layer.mlp_norm = Nothing(), nn.Identity()


def finish(layer: Any, shape: dict[str, Any], config: Any) -> None:
    """Give a layer that became the first its norm back, which the base's first layer lacks."""
    if shape["heads"] and shape["layer"] and isinstance(layer.attn_norm, nn.Identity):
        layer.attn_norm = nn.LayerNorm(
            config.hidden_size, eps=config.norm_eps, bias=config.norm_bias
        )


LAYOUT = Layout(
    layers="layers",
    attention=Block(("attn.Wqkv",), "attn.Wo", parts=3, norm="attn_norm"),
    ffn=Block(("mlp.Wi",), "mlp.Wo", parts=2, norm="mlp_norm"),
    core="attn",
    activation="mlp.act",
    remove_attention=remove_attention,
    remove_ffn=remove_ffn,
    finish=finish,
    heads=(),
    width=(),
)
