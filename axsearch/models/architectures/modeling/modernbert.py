"""The layers of ModernBERT: pre-norm, fused query-key-value projection, gated FFN."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.models.modernbert.modeling_modernbert import rotate_half

from axsearch.approximations.modeling import Block, Position, encoder_layout
from axsearch.models.architectures.modeling.blocks import NoAttention, Nothing
from axsearch.models.architectures.modeling.first_token import (
    HANDED,
    attend_once,
    narrower,
    of_heads,
    project,
)


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


class FirstTokenModernBertAttention:
    """Mixed into ModernBERT's attention: only the first token has a query.

    Keys are turned by their positions, so each is made.
    """

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        """(batch, 1, hidden) in and out."""
        core: Any = self
        assert position_embeddings is not None
        if core.sliding_window is not None and getattr(attention_mask, "ndim", 4) == 2:
            # Its kernels know the window, which the mask for them does not have.
            raise ValueError("a narrowed last layer with local attention needs sdpa or eager")
        weights, bias = core.Wqkv.weight.chunk(3), core.Wqkv.bias
        biases = (None, None, None) if bias is None else bias.chunk(3)
        query, key, value = zip(weights, biases, strict=True)
        cos, sin = (turn[:, None] for turn in position_embeddings)

        def scores(query: Tensor) -> Tensor:
            keys = project(HANDED.states, key).unflatten(-1, (-1, core.head_dim)).transpose(1, 2)
            return (query[:, :, None] @ _turned(keys, cos, sin).transpose(-1, -2))[:, :, 0]

        own = of_heads(project(hidden_states, query), core.head_dim)[:, :, None]
        turned = _turned(own, cos[:, :, :1], sin[:, :, :1])[:, :, 0] * core.head_dim**-0.5
        context = attend_once(core, turned, scores, value, attention_mask)
        return core.out_drop(core.Wo(context)), None


def _turned(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Queries or keys, (batch, heads, length, width), turned by their positions."""
    turned: Tensor = states.float() * cos + rotate_half(states.float()) * sin
    return turned.to(states.dtype)


LAYERS = "layers"
ATTENTION = Block(
    ("attn.Wqkv",),
    "attn.Wo",
    remove_attention,
    parts=3,
    norm="attn_norm",
    units="num_attention_heads",
    core="attn",
)
LAYOUT = encoder_layout(
    LAYERS,
    attention=ATTENTION,
    ffn=Block(("mlp.Wi",), "mlp.Wo", remove_ffn, parts=2, norm="mlp_norm", activation="mlp.act"),
    finish=finish,
    outside={
        "stack": Block(narrow=narrower(LAYERS, ATTENTION, FirstTokenModernBertAttention)),
        "embeddings": Block(("embeddings.tok_embeddings",)),
    },
)
