"""The layers of BERT and of what is built as it is: RoBERTa, ELECTRA and others, post-norm."""

from __future__ import annotations

from axsearch.models.architectures.modeling.blocks import (
    Block,
    Layout,
    leave_attention_norm,
    leave_output_norm,
)

LAYOUT = Layout(
    layers="encoder.layer",
    attention=Block(
        ("attention.self.query", "attention.self.key", "attention.self.value"),
        "attention.output.dense",
    ),
    ffn=Block(("intermediate.dense",), "output.dense"),
    core="attention.self",
    activation="intermediate.intermediate_act_fn",
    remove_attention=leave_attention_norm,
    remove_ffn=leave_output_norm,
)
