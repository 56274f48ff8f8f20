"""The layers of BERT and of what is built as it is: RoBERTa, ELECTRA and others, post-norm."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from axsearch.approximations.modeling import Block, encoder_layout
from axsearch.models.architectures.modeling.blocks import leave_attention_norm, leave_output_norm
from axsearch.models.architectures.modeling.first_token import (
    attend_once,
    folded_scores,
    narrower,
    of_heads,
    parameters,
)


class FirstTokenBertAttention:
    """Mixed into BERT's self-attention: only the first token has a query."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        """(batch, 1, hidden) in, (batch, 1, heads x width) out."""
        core: Any = self
        query = of_heads(core.query(hidden_states), core.attention_head_size) * core.scaling
        keys = folded_scores(parameters(core.key))
        return attend_once(core, query, keys, parameters(core.value), attention_mask), None


LAYERS = "encoder.layer"
ATTENTION = Block(
    ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.output.dense",
    leave_attention_norm,
    units="num_attention_heads",
    core="attention.self",
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
    outside={
        "stack": Block(narrow=narrower(LAYERS, ATTENTION, FirstTokenBertAttention)),
        "embeddings": Block(("embeddings.word_embeddings",)),
    },
)
