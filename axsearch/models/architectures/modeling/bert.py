"""The layers of BERT and of what is built as it is: RoBERTa, ELECTRA and others, post-norm."""

from __future__ import annotations

from axsearch.approximations.modeling import Block, encoder_layout
from axsearch.models.architectures.modeling.blocks import leave_attention_norm, leave_output_norm

LAYOUT = encoder_layout(
    "encoder.layer",
    attention=Block(
        ("attention.self.query", "attention.self.key", "attention.self.value"),
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
)
