"""Size of a model's safetensors file, from shapes alone."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from torch import Tensor

# In the order of safetensors' own type list, which is the order of the data in a file.
_DTYPES = {
    "torch.int64": "I64",
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.int32": "I32",
    "torch.bfloat16": "BF16",
    "torch.float16": "F16",
    "torch.int8": "I8",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
}
_RANK = {dtype: rank for rank, dtype in enumerate(_DTYPES)}

METADATA = {"format": "pt"}
"""What an exported file's header carries beside the tensors; transformers asks for it."""


def parameter_count(state: Mapping[str, Tensor]) -> int:
    """How many numbers a state dict holds."""
    return sum(tensor.numel() for tensor in state.values())


INT8 = "int8"
"""The precision in which matrices take a byte a number."""


def model_bytes(
    state: Mapping[str, Tensor], dtype: torch.dtype | None = None, precision: str = "float32"
) -> int:
    """The bytes of the file that a model is served from, from its shapes alone.

    In int8 these are the matrices, embeddings among them, with a scale for each row, and all else
    in float32, without the graph around them. In any other precision the file is the safetensors
    file, see :func:`safetensors_bytes`.
    """
    if precision != INT8:
        return safetensors_bytes(state, dtype)
    return sum(tensor_bytes(tensor, precision) for tensor in state.values())


def tensor_bytes(tensor: Tensor, precision: str = "float32") -> int:
    """The bytes of one tensor in the file that a model is served from."""
    if precision != INT8 or not tensor.is_floating_point():
        return tensor.nbytes
    if tensor.dim() != 2:
        return 4 * tensor.numel()
    return tensor.numel() + 4 * tensor.shape[0]


def safetensors_bytes(state: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> int:
    """Exact bytes of the safetensors file that an export writes for a state dict.

    The file is an 8-byte length, a JSON header padded to a multiple of 8, and the raw data,
    by type and then by name (safetensors format description). Works on meta tensors.

    Args:
        state: the tensors by name.
        dtype: in which numbers that are no integers are written; as they are if None.
    """

    def kept_in(tensor: Tensor) -> torch.dtype:
        return dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype

    offset = 0
    header: dict[str, object] = {"__metadata__": METADATA}
    for name in sorted(state, key=lambda name: (_RANK[str(kept_in(state[name]))], name)):
        tensor = state[name]
        end = offset + tensor.numel() * kept_in(tensor).itemsize
        header[name] = {
            "dtype": _DTYPES[str(kept_in(tensor))],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    written = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-written // 8) * 8 + offset
