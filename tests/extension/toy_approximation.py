"""The files of a toy approximation: it drops the output bias of an FFN and damps its activation."""

from __future__ import annotations

INIT = '"""A toy."""\n'

CHOICE = '''"""FFN outputs without bias, whose activation is damped."""

from __future__ import annotations

from collections.abc import Sequence

from axsearch.approximations.base import Approximation
from axsearch.approximations.choices import Choice, Level
from axsearch.approximations.site import Site


class Damping(Choice):
    """How much of the activation is left."""

    version = 3
    percent: int

    @property
    def level(self) -> int:
        """Percent left."""
        return self.percent


class Damped(Approximation):
    """A toy with a tensor cut, a setting and an installed module."""

    name = "damped"
    kinds = ("ffn",)
    summary = "activation left, in percent"
    choice_type = Damping
    unit = "percent of an activation"
    short = "d"
    title = "damping"
    axis = "percent left"

    def levels(self, site: Site, part: int = 0) -> tuple[Level, ...]:
        """All, then less."""
        return (None, 95, 90)

    def choice(
        self, site: Site, level: Level, order: Sequence[int], part: int = 0
    ) -> Choice | None:
        """The percentage of a level."""
        return None if level is None else Damping(percent=level)

    def misfit(self, site: Site, choice: Choice) -> str | None:
        """From 1 to 99 percent."""
        fits = isinstance(choice, Damping) and 0 < choice.percent < 100
        return None if fits else "damps too much"

    def remarks(self, choices: Sequence[Choice]) -> tuple[str, ...]:
        """That it is a toy."""
        return ("It is damped.",) if choices else ()
'''

MODELING = '''"""Cuts the bias and installs the damper."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from axsearch.approximations.modeling import Modeling, Target, replace_module

if TYPE_CHECKING:
    from axsearch.approximations.site import Site


class Damper(nn.Module):
    """An activation of which a share is left."""

    def __init__(self, activation: Any, share: float) -> None:
        super().__init__()
        self.activation = activation
        self.share = share

    def forward(self, scores: Tensor) -> Tensor:
        return self.activation(scores) * self.share


class DampedModeling(Modeling):
    """Drops the output's bias."""

    @classmethod
    def cut(
        cls, site: Site, choice: Mapping[str, Any], state: MutableMapping[str, Tensor]
    ) -> None:
        state.pop(site.units.bias, None)

    @classmethod
    def install(cls, target: Target, choice: Mapping[str, Any]) -> None:
        output = target.module.get_submodule(target.block.output)
        new = nn.Linear(output.in_features, output.out_features, bias=False)
        replace_module(target.module, target.block.output, new)
        activation = target.module.get_submodule(target.block.activation)
        damper = Damper(activation, choice["percent"] / 100)
        replace_module(target.module, target.block.activation, damper)
'''

FILES = {
    "damped/__init__.py": INIT,
    "damped/choice.py": CHOICE,
    "damped/modeling.py": MODELING,
}
