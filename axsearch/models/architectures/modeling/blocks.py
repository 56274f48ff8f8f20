"""What smaller models of all families share: where a layer's blocks are, and their new shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from axsearch.kernels.attention_interface import ATTENTION_NAME
from axsearch.kernels.topk_activation import topk_activation


@dataclass(frozen=True)
class Block:
    """An attention or FFN block of a layer, by the names of its modules inside the layer.

    Heads or neurons lie side by side in the outputs of ``inputs`` (``parts`` times one after the
    other, 3 for a fused query-key-value projection) and in the input of ``output``. ``norm`` is
    the LayerNorm that goes with the block: that of a pre-norm layer.
    """

    inputs: tuple[str, ...]
    output: str
    parts: int = 1
    norm: str | None = None


@dataclass(frozen=True)
class Layout:
    """Where a family keeps what can be approximated, and how a block is taken out.

    ``layers`` is a name inside the base model; ``core`` (the module that attends), ``activation``
    and the blocks are names inside a layer. ``heads`` and ``width`` name the attributes of the core
    that hold the number of heads and their joint width. ``finish`` is called with a layer, its
    shape and the config after all else; ``empty_layer`` makes what stands in for a layer that has
    lost both blocks and must keep its place, where taking both out would leave their norms.
    """

    layers: str
    attention: Block
    ffn: Block
    core: str
    activation: str
    remove_attention: Callable[[Any], None]
    remove_ffn: Callable[[Any], None]
    heads: tuple[str, ...] = ("num_attention_heads",)
    width: tuple[str, ...] = ("all_head_size",)
    finish: Callable[[Any, dict[str, Any], Any], None] | None = None
    empty_layer: Callable[[], nn.Module] | None = None


class NormOnly(nn.Module):
    """What a removed block leaves in a post-norm layer: ``LayerNorm(x)``."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.LayerNorm = norm

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        """(batch, length, hidden) in and out."""
        norm: Any = self.LayerNorm
        return norm(hidden_states), None


class NormOnlyAttention(nn.Module):
    """The same, where the attention block keeps its LayerNorm in ``output``."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.output = NormOnly(norm)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        """(batch, length, hidden) in and out."""
        return self.output(hidden_states)  # type: ignore[no-any-return]


class NormOnlyOutput(nn.Module):
    """What a removed FFN block leaves in a post-norm layer: ``LayerNorm(x)``."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.LayerNorm = norm

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        """(batch, length, hidden) in and out; there is no intermediate state."""
        return self.LayerNorm(input_tensor)  # type: ignore[no-any-return]


def leave_attention_norm(layer: Any) -> None:
    """Take out the attention block of a layer built as BERT's is; ``LayerNorm(x)`` is left."""
    layer.attention = NormOnlyAttention(layer.attention.output.LayerNorm)


def leave_output_norm(layer: Any) -> None:
    """Take out the FFN block of a layer built as BERT's is; ``LayerNorm(x)`` is left."""
    layer.intermediate = nn.Identity()
    layer.output = NormOnlyOutput(layer.output.LayerNorm)


class Nothing(nn.Module):
    """Zero, to be added to the residual: what a removed block leaves where the layer adds."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(batch, length, hidden) in, one zero out."""
        return hidden_states.new_zeros(())


class NoAttention(nn.Module):
    """Zero in place of an attention block and its probabilities."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        """(batch, length, hidden) in, one zero out."""
        return hidden_states.new_zeros(()), None


class TopKActivation(nn.Module):
    """An FFN's activation that keeps each token's k largest pre-activations."""

    def __init__(self, activation: nn.Module, k: int) -> None:
        super().__init__()
        self.activation = activation
        self.k = k

    def forward(self, scores: Tensor) -> Tensor:
        """(..., neurons) in and out."""
        return topk_activation(scores, self.k, self.activation)


def apply_shapes(model: PreTrainedModel, shapes: list[dict[str, Any]], layout: Layout) -> None:
    """Give each layer its own shape; new tensors are left for the caller to fill.

    ``shapes`` has one entry a layer: ``heads`` and ``ffn`` are counts (0 removes the block),
    ``topk`` is None or ``{"value": k, "mode": "renormalised" | "hard"}``, ``ffn_topk`` None or
    ``{"value": k, "mode": "largest"}``, ``layer`` is the layer's number in the base, ``attends``
    how many layers below still have their attention block, and ``kept_heads`` which of the base's
    heads are left, None for all.
    """
    layers: Any = model.base_model.get_submodule(layout.layers)
    config: Any = model.config
    layer: Any
    for number, (layer, shape) in enumerate(zip(layers, shapes, strict=True)):
        if shape["heads"] == shape["ffn"] == 0 and layout.empty_layer is not None:
            layers[number] = layout.empty_layer()
            continue
        if shape["heads"] == 0:
            layout.remove_attention(layer)
        else:
            core: Any = layer.get_submodule(layout.core)
            full = _fan_in(layer.get_submodule(layout.attention.output))
            width = shape["heads"] * (full // config.num_attention_heads)
            if width != full:
                _resize(layer, layout.attention, width)
                for name in layout.heads:
                    setattr(core, name, shape["heads"])
                for name in layout.width:
                    setattr(core, name, width)
            if shape["topk"] is not None:
                core.topk, core.topk_mode = shape["topk"]["value"], shape["topk"]["mode"]
                if model._supports_sdpa:  # else the family's own module reads topk
                    config._attn_implementation = ATTENTION_NAME
        if shape["ffn"] == 0:
            layout.remove_ffn(layer)
        else:
            if shape["ffn"] != _fan_in(layer.get_submodule(layout.ffn.output)):
                _resize(layer, layout.ffn, shape["ffn"])
            if shape["ffn_topk"] is not None:
                activation = layer.get_submodule(layout.activation)
                _replace(
                    layer, layout.activation, TopKActivation(activation, shape["ffn_topk"]["value"])
                )
        if layout.finish is not None:
            layout.finish(layer, shape, config)


def _fan_in(projection: Any) -> int:
    return int(
        projection.weight.shape[0] if isinstance(projection, Conv1D) else projection.in_features
    )


def _resize(layer: nn.Module, block: Block, width: int) -> None:
    for name in (*block.inputs, block.output):
        try:
            old: Any = layer.get_submodule(name)
        except AttributeError:  # a projection that only some configs have
            continue
        new: nn.Module
        if isinstance(old, Conv1D):  # its weight is (in, out)
            sizes = (old.nf, width) if name == block.output else (width * block.parts, old.nx)
            new = Conv1D(*sizes)
        elif name == block.output:
            new = nn.Linear(width, old.out_features, bias=old.bias is not None)
        else:
            new = nn.Linear(old.in_features, width * block.parts, bias=old.bias is not None)
        _replace(layer, name, new)


def _replace(layer: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(layer.get_submodule(parent), leaf, new)
