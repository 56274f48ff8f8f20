"""The layers of GPT-2: pre-norm, causal, projections whose weights are (in, out)."""

from __future__ import annotations

from typing import Any

from torch import nn

from axsearch.models.architectures.modeling.blocks import Block, Layout, NoAttention, Nothing


def remove_attention(layer: Any) -> None:
    """Leave the residual alone."""
    layer.attn, layer.ln_1 = NoAttention(), nn.Identity()


def remove_ffn(layer: Any) -> None:
    """Leave the residual alone."""
    layer.mlp, layer.ln_2 = Nothing(), nn.Identity()


def finish(layer: Any, shape: dict[str, Any], config: Any) -> None:
    """Keep the scale of the base's layer, and a place in the cache without gaps."""
    if shape["heads"]:
        core = layer.attn
        core.scaling = core.head_dim**-0.5 if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            core.scaling /= shape["layer"] + 1
        core.layer_idx = shape["attends"]


LAYOUT = Layout(
    layers="h",
    attention=Block(("attn.c_attn",), "attn.c_proj", parts=3, norm="ln_1"),
    ffn=Block(("mlp.c_fc",), "mlp.c_proj", norm="ln_2"),
    core="attn",
    activation="mlp.act",
    remove_attention=remove_attention,
    remove_ffn=remove_ffn,
    finish=finish,
    heads=("num_heads",),
    width=("split_size", "embed_dim"),
)
