"""Modules that replace removed blocks, for the layers of all families."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class NormOnly(nn.Module):
    """Replaces a removed block in a post-norm layer: ``LayerNorm(x)``."""

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
    """Replaces a removed FFN block in a post-norm layer: ``LayerNorm(x)``."""

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
    """Replaces a removed block whose output the layer adds to the residual: zero."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(batch, length, hidden) in, one zero out."""
        return hidden_states.new_zeros(())


class NoAttention(nn.Module):
    """Zero in place of an attention block and its probabilities."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        """(batch, length, hidden) in, one zero out."""
        return hidden_states.new_zeros(()), None
