"""The layers of DistilBERT: post-norm, with the norms beside the blocks."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from axsearch.approximations.modeling import Block, encoder_layout
from axsearch.models.architectures.modeling.blocks import NoAttention, Nothing
from axsearch.models.architectures.modeling.first_token import (
    attend_once,
    folded_scores,
    narrower,
    of_heads,
    parameters,
)


def remove_attention(layer: Any) -> None:
    """Leave ``LayerNorm(x + 0)``."""
    layer.attention = NoAttention()


def remove_ffn(layer: Any) -> None:
    """Leave ``LayerNorm(x + 0)``."""
    layer.ffn = Nothing()


class FirstTokenDistilBertAttention:
    """Mixed into DistilBERT's attention: only the first token has a query."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        """(batch, 1, hidden) in and out."""
        core: Any = self
        query = of_heads(core.q_lin(hidden_states), core.attention_head_size) * core.scaling
        keys = folded_scores(parameters(core.k_lin))
        context = attend_once(core, query, keys, parameters(core.v_lin), attention_mask)
        return core.out_lin(context), None


LAYERS = "transformer.layer"
ATTENTION = Block(
    ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    "attention.out_lin",
    remove_attention,
    units="num_attention_heads",
    core="attention",
    counts=("n_heads",),
    widths=("dim",),
)
LAYOUT = encoder_layout(
    LAYERS,
    attention=ATTENTION,
    ffn=Block(("ffn.lin1",), "ffn.lin2", remove_ffn, activation="ffn.activation"),
    outside={
        "stack": Block(narrow=narrower(LAYERS, ATTENTION, FirstTokenDistilBertAttention)),
        "embeddings": Block(("embeddings.word_embeddings",)),
    },
)
