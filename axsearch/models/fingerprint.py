"""A checksum by which the same model is recognised."""

from __future__ import annotations

import hashlib
import json

import torch
from transformers import PreTrainedModel

from axsearch.models.architectures import architecture_of
from axsearch.models.origin import ENTRY, is_shaped

FINGERPRINTED = (
    "activation",
    "activation_function",
    "classifier_activation",
    "classifier_pooling",
    "conv_act",
    "conv_kernel_size",
    "is_decoder",
    "hidden_act",
    "hidden_activation",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "layer_types",
    "local_attention",
    "max_position_embeddings",
    "max_relative_positions",
    "model_type",
    "norm_eps",
    "norm_rel_ebd",
    "num_attention_heads",
    "num_hidden_groups",
    "num_hidden_layers",
    "pad_token_id",
    "pooler_hidden_act",
    "pos_att_type",
    "position_buckets",
    "position_embedding_type",
    "relative_attention",
    "relative_attention_num_buckets",
    "reorder_and_upcast_attn",
    "rope_parameters",
    "scale_attn_by_inverse_layer_idx",
    "scale_attn_weights",
    "share_att_key",
)
"""Config values that change what a model says while its weights stay the same."""


def model_fingerprint(model: PreTrainedModel) -> str:
    """SHA-256 of names, shapes, types and bytes of all weights, and of what the config adds."""
    digest = hashlib.sha256()
    values = {name: getattr(model.config, name, None) for name in FINGERPRINTED}
    if is_shaped(model.config):  # a k, and the place of a layer, are in no weights
        values[ENTRY] = architecture_of(model.config.model_type).origin(model).to_dict()
    digest.update(json.dumps(values, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().cpu().view(torch.uint8).numpy().data)
    return digest.hexdigest()
