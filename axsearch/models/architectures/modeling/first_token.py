"""A last layer that computes only the first token, where a model's head reads no other.

The layer's weights stay as they are. Keys and values of the other tokens need not be projected one
by one either: with x the states of all tokens and q the query of the first, the scores of a head
are ``x (W_k^T q)``, and its output is ``W_v (p x)``, p being the probabilities. So a layer of
length n and width h costs ``2 n h`` multiplications a head in place of ``2 n h d`` for the
projections (d the width of a head), and the rest of it as much as one token does.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, linear, pad

from axsearch.approximations.modeling import Block

HANDED = threading.local()
"""What a narrowed layer hands to its attention; each thread that runs a model has its own."""


@contextmanager
def handing(**values: Any) -> Iterator[None]:
    """While open, ``HANDED`` has these values."""
    before = dict(vars(HANDED))
    vars(HANDED).update(values)
    try:
        yield
    finally:
        vars(HANDED).clear()
        vars(HANDED).update(before)


class FirstTokenLayer:
    """Mixed into the class of a layer: (batch, length, hidden) in, (batch, 1, hidden) out.

    The layer runs as it is, on the first token alone; its attention finds all of them in
    ``HANDED.states``.
    """

    narrowed: Block

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The layer's output for the first token."""
        layer: Any = self
        parent: Any = super()
        states, norm = hidden_states, layer.narrowed.norm
        if norm is not None and attending(layer, layer.narrowed) is not None:
            states = layer.get_submodule(norm)(hidden_states)
        with handing(states=states):
            return parent.forward(hidden_states[:, :1], *args, **kwargs)


def narrower(layers: str, attention: Block, core: type) -> Callable[[Any], None]:
    """A function that narrows the last layer of a model to its first token.

    Args:
        layers: the name of the list of layers inside the base model.
        attention: the block that attends.
        core: mixed into the class of the block's core; its ``forward`` finds the states of all
            tokens, after the norm of a pre-norm layer, in ``HANDED.states``.
    """

    def narrow(model: Any) -> None:
        there: Any = model.base_model.get_submodule(layers)
        if not len(there):
            return
        there[-1].narrowed = attention
        mix_in(FirstTokenLayer, there[-1])
        attends = attending(there[-1], attention)
        if attends is not None:
            mix_in(core, attends)

    return narrow


def attending(layer: Any, attention: Block) -> Any:
    """The module of a layer that attends; None where the block was removed."""
    try:
        layer.get_submodule(attention.inputs[0])
    except AttributeError:
        return None
    return layer.get_submodule(attention.core)


def mix_in(mixin: type, module: Any) -> None:
    """Give a module a class whose methods come before its own; the tensors stay."""
    own: Any = type(module)
    if not issubclass(own, mixin):  # as it is in a base that was narrowed before
        module.__class__ = mixed(mixin, own)


@functools.cache
def mixed(mixin: Any, own: Any) -> Any:
    """The class of both; its objects are copied and pickled by the two."""

    def reduced(self: Any, _: Any) -> Any:
        return blank, (mixin, own), self.__dict__

    return type(f"{mixin.__name__}{own.__name__}", (mixin, own), {"__reduce_ex__": reduced})


def blank(mixin: type, own: type) -> Any:
    """An object of the class of both, before its state is set."""
    made = mixed(mixin, own)
    return made.__new__(made)


def attend_once(
    core: Any, query: Tensor, keys: Callable[[Tensor], Tensor], value: Any, mask: Tensor | None
) -> Tensor:
    """The attention of one query to all tokens.

    Args:
        core: the module that attends, with k where its attention is top-k.
        query: scaled, (batch, heads, width).
        keys: returns the scores of a query, (batch, heads, length), without the mask.
        value: weight, (heads x width, hidden), and bias of the projection of values.
        mask: (batch, 1, any, length), of which the first query's row counts, or (batch, length):
            True where it may attend, or a term of the scores; None where it may attend to all.

    Returns:
        The outputs of the heads side by side, (batch, 1, heads x width).
    """
    weight, bias = value
    scores, reaches = keys(query), None
    if mask is not None:
        row = mask[:, None] if mask.dim() == 2 else mask[..., 0, :]  # of flash attention it has 2
        if row.dtype == torch.bool:
            # Finite, so that a query that may attend to no key does not become NaN. As in PyTorch's
            # kernels its output is 0.
            scores = scores.masked_fill(~row, torch.finfo(scores.dtype).min)
            reaches = row.any(-1, keepdim=True)
        else:
            scores = scores + row.to(scores.dtype)
    probabilities = _probabilities(scores, getattr(core, "topk", None), core)
    if reaches is not None:
        probabilities = probabilities * reaches
    width = query.shape[-1]
    gathered = (probabilities @ HANDED.states).transpose(0, 1)
    output = (gathered @ by_heads(weight, width).transpose(1, 2)).transpose(0, 1)
    if bias is not None:
        output = output + probabilities.sum(-1, keepdim=True) * bias.reshape(-1, width)
    # A tracer keeps the -1 of a view, but not that of a reshape which copies.
    joined: Tensor = output.contiguous().view(output.shape[0], 1, -1)
    return joined


def folded_scores(key: Any) -> Callable[[Tensor], Tensor]:
    """The scores of a query with keys that need not be made: ``x (W_k^T q)``.

    Args:
        key: weight, (heads x width, hidden), and bias of the projection of keys.
    """
    weight, bias = key

    def scores(query: Tensor) -> Tensor:
        width = query.shape[-1]
        folded = (query.transpose(0, 1) @ by_heads(weight, width)).transpose(0, 1)
        found: Tensor = folded @ HANDED.states.transpose(1, 2)
        if bias is not None:  # the same for all keys
            found = found + (query * bias.reshape(-1, width)).sum(-1, keepdim=True)
        return found

    return scores


def of_heads(projected: Tensor, width: int) -> Tensor:
    """(batch, 1, heads x width) as (batch, heads, width).

    Here and below the number of heads is what is left: a graph then holds models with fewer, too.
    """
    return projected.reshape(projected.shape[0], -1, width)


def by_heads(weight: Tensor, width: int) -> Tensor:
    """A weight, (heads x width, hidden), as (heads, width, hidden)."""
    return weight.reshape(-1, width, weight.shape[1])


def parameters(projection: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """Weight and bias."""
    return projection.weight, projection.bias


def project(states: Tensor, parameters: tuple[Tensor, Tensor | None]) -> Tensor:
    """A projection by a weight and a bias."""
    return linear(states, *parameters)


def _probabilities(scores: Tensor, k: int | None, core: Any) -> Tensor:
    """Softmax over all keys or the k largest scores, (batch, heads, length)."""
    kept = None
    if k is not None:
        # k more keys, which nobody attends to: there are always k to choose from.
        wider = pad(scores, (0, k), value=float("-inf"))
        kept = torch.zeros_like(wider).scatter(-1, wider.topk(k).indices, 1.0)[..., :-k]
        if core.topk_mode == "renormalised":
            scores = scores.masked_fill(kept == 0, float("-inf"))
    found = torch.softmax(scores, dim=-1)
    if kept is not None and core.topk_mode == "hard":
        found = found * kept
    return dropout(found, _rate(core), core.training)


def _rate(core: Any) -> float:
    """The share of probabilities that training drops."""
    for name in ("attention_dropout", "attn_dropout", "dropout"):
        found = getattr(core, name, None)
        if found is not None:
            return float(getattr(found, "p", found))
    return 0.0
