"""Sites: the parts of a base model that can be approximated, and their units."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

SiteKind = str
"""What lies at a site. A family may have kinds that no other has."""

ATTENTION: SiteKind = "attention"
FFN: SiteKind = "ffn"
STACK: SiteKind = "stack"
"""All layers together; it lies outside of each of them."""
EMBEDDINGS: SiteKind = "embeddings"
"""The table with a row for each token; it lies outside of all layers."""
KIND_TITLES: Mapping[SiteKind, str] = {FFN: "FFN"}
"""Display names of kinds, where they differ from the kind."""

OUTSIDE = -1
"""The layer of a site that belongs to no layer, such as the embeddings."""

SELECTABLE_SCORES = "selectable scores"
"""Of attention: another function can compute its scores and select the largest."""

REWRITABLE = "a tokenizer that can be rewritten"
"""Of the embeddings: the task's tokenizer can do with fewer tokens."""

ONE_TOKEN = "a head that reads one token"
"""Of the stack of layers: the head reads one token of the last one, the first or the last."""


class SiteId(NamedTuple):
    """The address of a part of the base model that can be approximated.

    ``layer03.attention`` is the attention block of a layer, ``embeddings`` lies outside of all
    layers, and ``decoder.layer03.cross_attention`` names one of several stacks of layers.
    """

    layer: int
    kind: SiteKind
    stack: str = ""

    def __str__(self) -> str:
        return ".".join(part for part in (self.stack, self._layer, self.kind) if part)

    @property
    def place(self) -> str:
        """The scope: the layer, ``layer03``, or the site itself where it lies outside of layers."""
        return ".".join(part for part in (self.stack, self._layer or self.kind) if part)

    @property
    def _layer(self) -> str:
        return "" if self.layer == OUTSIDE else f"layer{self.layer:02d}"

    @classmethod
    def parse(cls, text: str) -> SiteId:
        """Read ``layer03.attention``; raises ValueError for anything else."""
        match = re.fullmatch(r"(?:([a-z][a-z_]*)\.)?(?:layer(\d{2,3})\.)?([a-z][a-z_]*)", text)
        if match is None:
            raise ValueError(f"{text!r} is not a site such as 'layer03.attention'")
        site = cls(OUTSIDE if match[2] is None else int(match[2]), match[3], match[1] or "")
        if str(site) != text:
            raise ValueError(f"{text!r} is not how a site is written; use {str(site)!r}")
        return site


def layer_of(place: str) -> int:
    """The number of the layer in a name such as ``layer03``; :data:`OUTSIDE` if there is none."""
    match = re.fullmatch(r"(?:[a-z_]+\.)?layer(\d{2,3})", place)
    return OUTSIDE if match is None else int(match[1])


@dataclass(frozen=True)
class Axis:
    """A tensor's dimension along which the units of a block lie.

    ``parts`` is how many times the units are laid one after the other in it: 1 for a plain
    projection, 3 for a fused query-key-value one.
    """

    tensor: str
    dim: int
    parts: int = 1


@dataclass(frozen=True)
class Units:
    """The removable units of a block: ``count`` heads or neurons, each ``width`` rows wide.

    ``whole`` names the tensors that go only with the whole block: the output bias, and the norm of
    a pre-norm block. ``output`` is the weight that the units' outputs go into, ``bias`` the bias
    added there, None where there is none.
    """

    count: int
    width: int
    axes: tuple[Axis, ...]
    whole: tuple[str, ...]
    output: Axis
    bias: str | None


@dataclass(frozen=True)
class TokenUse:
    """How often the tokens of a vocabulary occur in texts.

    Attributes:
        counts: of each token, (tokens,).
        needed: those that a tokenizer cannot do without, such as the single characters.
        ranks: the place of each token among all by how common it is in general, (tokens,), which
            decides between tokens that occur as often; their ids where empty.
    """

    counts: tuple[int, ...]
    needed: frozenset[int] = frozenset()
    ranks: tuple[int, ...] = ()

    @cached_property
    def order(self) -> tuple[int, ...]:
        """All tokens, the first to be removed first: those with few occurrences, then those that
        are less common, then those that are needed.
        """
        ranks = self.ranks or range(len(self.counts))

        def key(token: int) -> tuple[bool, int, int]:
            return token in self.needed, self.counts[token], -ranks[token]

        return tuple(sorted(range(len(self.counts)), key=key))

    def at_least(self, count: int) -> int:
        """How many tokens occur at least so often, or are needed."""
        return sum(own >= count or one in self.needed for one, own in enumerate(self.counts))

    def to_dict(self) -> dict[str, list[int]]:
        """As plain data."""
        return {
            "counts": list(self.counts), "needed": sorted(self.needed), "ranks": list(self.ranks),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Sequence[int]]) -> TokenUse:
        """Read what :meth:`to_dict` wrote."""
        return cls(tuple(data["counts"]), frozenset(data["needed"]), tuple(data["ranks"]))


@dataclass(frozen=True)
class Site:
    """One part of a given base model that can be approximated.

    Attributes:
        id: its address.
        units: what can be removed from it; None for a site that has no units.
        unit_parameters: how many parameters one unit holds.
        length: the longest input, in tokens, that the search will see: a k above it has no effect.
        repeats: how often a forward pass runs the site, more than once where layers share their
            parameters, and so their choices.
        modules: the names of its modules in the base model's state dict, without ``.weight``.
        made: the levels of the choices that the base has here already, by their types, where it is
            an export that is made smaller again; without those that removed units.
        rows: of the embeddings, how many tokens they have; otherwise 0.
        padding: of the embeddings, the token that pads; None where they know none.
        token_use: of the embeddings, how often these occur; None where nobody counted them.
        lacks: what the model's family cannot do here, such as :data:`SELECTABLE_SCORES`, with the
            reason; an approximation lists what it ``needs``.
    """

    id: SiteId
    units: Units | None
    unit_parameters: int
    length: int
    repeats: int = 1
    lacks: Mapping[str, str] = field(default_factory=dict)
    made: Mapping[str, int | None] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    rows: int = 0
    padding: int | None = None
    token_use: TokenUse | None = None

    @property
    def count(self) -> int:
        """How many units it holds; 0 where it has none."""
        return 0 if self.units is None else self.units.count

    def refusal(self, needs: Collection[str]) -> str | None:
        """Why an approximation that needs these cannot work here; None if it can."""
        return next((self.lacks[need] for need in sorted(needs) if need in self.lacks), None)
