"""The layers of GPT-2: pre-norm, causal, projections whose weights are (in, out)."""

from __future__ import annotations

from typing import Any

from torch import nn

from axsearch.approximations.modeling import Block, Position, encoder_layout
from axsearch.models.architectures.modeling.blocks import NoAttention, Nothing


def remove_attention(layer: Any) -> None:
    """Leave the residual alone."""
    layer.attn, layer.ln_1 = NoAttention(), nn.Identity()


def remove_ffn(layer: Any) -> None:
    """Leave the residual alone."""
    layer.mlp, layer.ln_2 = Nothing(), nn.Identity()


def finish(layer: Any, position: Position, config: Any) -> None:
    """Keep the scale of the base's layer, and a place in the cache without gaps."""
    if "attention" not in position.removed:
        core = layer.attn
        core.scaling = core.head_dim**-0.5 if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            core.scaling /= position.layer + 1
        core.layer_idx = position.below["attention"]


LAYOUT = encoder_layout(
    "h",
    attention=Block(
        ("attn.c_attn",),
        "attn.c_proj",
        remove_attention,
        parts=3,
        norm="ln_1",
        units="num_attention_heads",
        core="attn",
        counts=("num_heads",),
        widths=("split_size", "embed_dim"),
    ),
    ffn=Block(("mlp.c_fc",), "mlp.c_proj", remove_ffn, norm="ln_2", activation="mlp.act"),
    finish=finish,
)
