"""The layers of MPNet: post-norm, with a position bias that every layer takes from one table."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.mpnet.modeling_mpnet import MPNetSelfAttention

from axsearch.approximations.modeling import Block, Position, encoder_layout
from axsearch.kernels.topk_attention import topk_attention
from axsearch.models.architectures.modeling.blocks import NormOnly, leave_output_norm
from axsearch.models.architectures.modeling.first_token import (
    attend_once,
    folded_scores,
    narrower,
    of_heads,
    parameters,
)


class ShapedMPNetSelfAttention(MPNetSelfAttention):
    """Attention of some of the base's heads, each with its own column of the position bias."""

    kept_units: list[int] | None = None
    topk: int | None = None
    topk_mode: Any = "renormalised"
    attend = staticmethod(topk_attention)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """(batch, length, hidden) in and out; the bias is (batch, heads of the base, n, n)."""
        if position_bias is not None and self.kept_units is not None:
            position_bias = position_bias[:, self.kept_units]
        if self.topk is None:
            return super().forward(  # type: ignore[no-any-return, no-untyped-call]
                hidden_states, attention_mask, position_bias, output_attentions, **kwargs
            )
        query, key, value = (
            projection(hidden_states).unflatten(-1, (-1, self.attention_head_size)).transpose(1, 2)
            for projection in (self.q, self.k, self.v)
        )
        terms = [term for term in (position_bias, attention_mask) if term is not None]
        mask = sum(terms[1:], terms[0]) if terms else None
        dropout = self.dropout.p if self.training else 0.0
        context = self.attend(
            query, key, value, self.topk, mask=mask, mode=self.topk_mode, dropout=dropout
        )
        output = self.o(context.transpose(1, 2).flatten(-2))
        return (output, None) if output_attentions else (output,)  # tiles keep no probabilities


def remove_attention(layer: Any) -> None:
    """Leave ``LayerNorm(x)``."""
    layer.attention = NormOnly(layer.attention.LayerNorm)


def finish(layer: Any, position: Position, config: Any) -> None:
    """Set on the attention which of the base's heads it has, and its k."""
    if "attention" not in position.removed:
        layer.attention.attn.__class__ = ShapedMPNetSelfAttention  # same tensors, another forward


class FirstTokenMPNetAttention:
    """Mixed into MPNet's self-attention: only the first token has a query."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """(batch, 1, hidden) in and out; the bias is (batch, heads of the base, n, n)."""
        core: Any = self
        if position_bias is not None:
            kept = core.kept_units
            position_bias = position_bias if kept is None else position_bias[:, kept]
        width = core.attention_head_size
        query = of_heads(core.q(hidden_states), width) * width**-0.5
        terms = [term[..., :1, :] for term in (position_bias, attention_mask) if term is not None]
        mask = sum(terms[1:], terms[0]) if terms else None
        keys = folded_scores(parameters(core.k))
        output = core.o(attend_once(core, query, keys, parameters(core.v), mask))
        return (output, None) if output_attentions else (output,)


LAYERS = "encoder.layer"
ATTENTION = Block(
    ("attention.attn.q", "attention.attn.k", "attention.attn.v"),
    "attention.attn.o",
    remove_attention,
    units="num_attention_heads",
    core="attention.attn",
    counts=("num_attention_heads",),
    widths=("all_head_size",),
)
LAYOUT = encoder_layout(
    LAYERS,
    attention=ATTENTION,
    ffn=Block(
        ("intermediate.dense",),
        "output.dense",
        leave_output_norm,
        activation="intermediate.intermediate_act_fn",
    ),
    finish=finish,
    outside={
        "stack": Block(narrow=narrower(LAYERS, ATTENTION, FirstTokenMPNetAttention)),
        "embeddings": Block(("embeddings.word_embeddings",)),
    },
)
