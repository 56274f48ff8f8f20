"""The layers of DeBERTa-v2 and v3: post-norm, disentangled attention."""

from __future__ import annotations

from typing import Any

from torch import nn

from axsearch.approximations.modeling import Block, encoder_layout
from axsearch.models.architectures.modeling.blocks import leave_attention_norm, leave_output_norm


class EmptyLayer(nn.Module):
    """Keeps the first layer's place, after which the encoder runs its convolution."""

    def forward(self, hidden_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, None]:
        """(batch, length, hidden) in and out."""
        return hidden_states, None


LAYOUT = encoder_layout(
    "encoder.layer",
    attention=Block(
        (
            "attention.self.query_proj",
            "attention.self.key_proj",
            "attention.self.value_proj",
            "attention.self.pos_key_proj",
            "attention.self.pos_query_proj",
        ),
        "attention.output.dense",
        leave_attention_norm,
        units="num_attention_heads",
        core="attention.self",
        counts=("num_attention_heads",),
        widths=("all_head_size",),
    ),
    ffn=Block(
        ("intermediate.dense",),
        "output.dense",
        leave_output_norm,
        activation="intermediate.intermediate_act_fn",
    ),
    empty_layer=EmptyLayer,
)
