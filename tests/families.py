"""A tiny classifier of any model family, for the contracts that run over every one of them."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

LENGTH = 96  # above every k that the search tries
SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": LENGTH,
}


@functools.cache
def tiny_model(model_type: str) -> PreTrainedModel:
    """The family's classifier with random weights, biases and norms; tests leave it as it is."""
    config = AutoConfig.for_model(model_type)
    for name, value in SIZES.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="sdpa")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def padded_batch() -> dict[str, Tensor]:
    """Three rows of 96, 70 and 9 tokens."""
    ids = torch.randint(
        5, SIZES["vocab_size"], (3, LENGTH), generator=torch.Generator().manual_seed(0)
    )
    mask = torch.ones_like(ids)
    mask[1, 70:] = 0
    mask[2, 9:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}
