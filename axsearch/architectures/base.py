"""What axsearch must know of a model family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from axsearch.approximations import Site


class Architecture(ABC):
    """A model family: where its layers, heads and FFNs are, and how a layer takes a new shape.

    One file in this folder is one family. ``modeling_module`` names the module whose source an
    export ships; ``config_class`` and ``exported`` (task to class) name the classes in it.
    """

    model_types: ClassVar[tuple[str, ...]]
    modeling_module: ClassVar[str]
    config_class: ClassVar[type[PreTrainedConfig]]
    exported: ClassVar[dict[str, type[PreTrainedModel]]]

    @abstractmethod
    def sites(self, config: PreTrainedConfig, length: int) -> tuple[Site, ...]:
        """Every attention and FFN site of the base, layer by layer.

        ``length`` is the longest input in tokens. Tensor names are those of the base's state
        dict.
        """

    @abstractmethod
    def layer_prefix(self, layer: int) -> str:
        """How the names of a layer's tensors begin, with the dot at the end."""

    @abstractmethod
    def layers(self, model: PreTrainedModel) -> nn.ModuleList:
        """The encoder layers of a model."""

    @abstractmethod
    def set_layers(self, model: PreTrainedModel, layers: Sequence[nn.Module]) -> None:
        """Let the model have only these of its layers."""

    @abstractmethod
    def apply_shapes(self, model: PreTrainedModel, shapes: list[dict[str, Any]]) -> None:
        """Give each layer its shape, with new tensors that are not yet filled."""

    @abstractmethod
    def gates(self, model: PreTrainedModel) -> list[tuple[nn.Module, nn.Module]]:
        """For each layer, the modules whose input holds the heads and the neurons side by side.

        The input's last dimension is ``heads * head_size`` and ``neurons``.
        """
