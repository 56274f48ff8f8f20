"""A model on another device, or with its parameters in another type."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def placed(
    model: PreTrainedModel, device: str, dtype: torch.dtype | None = None
) -> PreTrainedModel:
    """The model itself where it is as wanted, else a copy: others use it as it is.

    With ``dtype`` parameters are copied in it; buffers, such as angles of positions, keep theirs.
    """
    wanted = torch.device(device)
    there_already = model.device.type == wanted.type and wanted.index in (None, model.device.index)
    if there_already and dtype is None:
        return model
    there: dict[int, Tensor] = {
        id(tensor): nn.Parameter(
            tensor.detach().to(wanted, dtype or tensor.dtype), tensor.requires_grad
        )
        for tensor in model.parameters()
    }
    there |= {id(tensor): tensor.to(wanted) for tensor in model.buffers()}
    return copy.deepcopy(model, there)
