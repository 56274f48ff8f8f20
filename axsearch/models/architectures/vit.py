"""ViT."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from axsearch.models.architectures.base import Architecture
from axsearch.models.architectures.modeling import vit as modeling


class Vit(Architecture):
    """ViT: a vision encoder; pre-norm layers, no padding."""

    model_types = ("vit",)
    modeling_module = modeling.__name__
    layout = modeling.LAYOUT
    reads_text = False

    def longest(self, config: PreTrainedConfig) -> int:
        """Patches and the class token."""
        (height, width), (tall, wide) = _both(config.image_size), _both(config.patch_size)
        return (height // tall) * (width // wide) + 1

    def example(self, config: PreTrainedConfig, rows: int, length: int) -> dict[str, Tensor]:
        """Random images, (rows, channels, height, width); their size is the config's."""
        size = (rows, config.num_channels, *_both(config.image_size))
        return {"pixel_values": torch.randn(size, generator=torch.Generator().manual_seed(0))}


def _both(size: int | Sequence[int]) -> tuple[int, int]:
    # A config gives one number for a square.
    height, width = (size, size) if isinstance(size, int) else size
    return height, width
