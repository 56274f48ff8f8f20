"""The layers of DeBERTa-v2 and v3: post-norm, disentangled attention."""

from __future__ import annotations

from typing import Any

from torch import nn

from axsearch.models.architectures.modeling.blocks import (
    Block,
    Layout,
    leave_attention_norm,
    leave_output_norm,
)


class EmptyLayer(nn.Module):
    """Keeps the first layer's place, after which the encoder runs its convolution."""

    def forward(self, hidden_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, None]:
        """(batch, length, hidden) in and out."""
        return hidden_states, None


LAYOUT = Layout(
    layers="encoder.layer",
    attention=Block(
        (
            "attention.self.query_proj",
            "attention.self.key_proj",
            "attention.self.value_proj",
            "attention.self.pos_key_proj",
            "attention.self.pos_query_proj",
        ),
        "attention.output.dense",
    ),
    ffn=Block(("intermediate.dense",), "output.dense"),
    core="attention.self",
    activation="intermediate.intermediate_act_fn",
    remove_attention=leave_attention_norm,
    remove_ffn=leave_output_norm,
    empty_layer=EmptyLayer,
)
