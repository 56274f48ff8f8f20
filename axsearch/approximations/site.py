"""Sites: the places of a base model that can be approximated, and the units that they hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

SiteKind = Literal["attention", "ffn"]


class SiteId(NamedTuple):
    """One place of the base model that can be approximated: ``layer03.attention``."""

    layer: int
    kind: SiteKind

    def __str__(self) -> str:
        return f"layer{self.layer:02d}.{self.kind}"

    @classmethod
    def parse(cls, text: str) -> SiteId:
        """Read ``layer03.attention``; raises ValueError for anything else."""
        match = re.fullmatch(r"layer(\d{2,3})\.(attention|ffn)", text)
        if match is None:
            raise ValueError(f"{text!r} is not a site such as 'layer03.attention'")
        site = cls(int(match[1]), match[2])  # type: ignore[arg-type]
        if str(site) != text:
            raise ValueError(f"{text!r} is not how a site is written; use {str(site)!r}")
        return site


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
class Site:
    """One place of a given base model that can be approximated.

    ``length`` is the longest input, in tokens, that the search will see: a k above it has no
    effect. ``unit_parameters`` is how many parameters one unit holds, ``repeats`` how often a
    forward pass runs the site (more than once where layers share their parameters, and so their
    choices). ``lacks`` says which approximations the model's family cannot have, and why.
    """

    id: SiteId
    units: Units
    unit_parameters: int
    length: int
    repeats: int = 1
    lacks: Mapping[str, str] = field(default_factory=dict)
