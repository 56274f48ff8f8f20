"""What an approximation is, and the description of a site that it works on.

Nothing here imports torch: an approximation only names tensors and slices those it is given.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import MutableMapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from axsearch.approximations.choices import Choice, Kept, Setting
from axsearch.approximations.site import Site, SiteKind

if TYPE_CHECKING:
    from torch import Tensor

Level = int | None


class Approximation(ABC):
    """A way to make a layer of a model cheaper; one file in this folder is one of them.

    The class attributes say what it is called in a genome (``layer03.<name>``), at which kinds of
    site it works, whether a search tries it unless told otherwise, and what it does. One genome
    parameter sets all of a layer's sites of these kinds, unless the approximation has several
    ``parts``: then each part has a parameter, ``layer03.<name>.05``.

    A recipe knows fewer names than a genome, since equal models must be equal recipes: removing a
    block is to keep none of its heads. ``recorded`` says under which name a choice is written.
    """

    name: ClassVar[str]
    kinds: ClassVar[tuple[SiteKind, ...]]
    summary: ClassVar[str]
    searched: ClassVar[bool] = True

    def recorded(self, kind: SiteKind) -> str:
        """The name that a recipe gives to the choice at a site of this kind."""
        return self.name

    def parts(self, site: Site) -> int:
        """How many parameters it has at this site, each with levels of its own."""
        return 1

    @abstractmethod
    def levels(self, site: Site, part: int = 0) -> tuple[Level, ...]:
        """The values its choice may take at this site, from exact to most approximate."""

    @abstractmethod
    def choice(
        self, site: Site, level: Level, order: Sequence[int], part: int = 0
    ) -> Choice | None:
        """The choice of a level; ``order`` lists the units, least important first.

        None where the level is exact.
        """

    @abstractmethod
    def value(self, site: Site, choice: Choice | None) -> Level:
        """The level value that a choice amounts to (units kept, or k); None choice is exact."""

    @abstractmethod
    def misfit(self, site: Site, choice: Choice) -> str | None:
        """Why a choice, which may come from a file, cannot be made at this site; None if it can."""

    @abstractmethod
    def cut(self, site: Site, choice: Choice, state: MutableMapping[str, Tensor]) -> None:
        """Slice the site's tensors in ``state`` to what the choice keeps."""


class TopK(Approximation):
    """Keeps the k largest of something and removes no unit: no tensor gets smaller."""

    modes: ClassVar[tuple[str, ...]]
    mode: ClassVar[str]

    def choice(
        self, site: Site, level: Level, order: Sequence[int], part: int = 0
    ) -> Choice | None:
        """The k of a level; the importance order does not matter."""
        return None if level is None else Setting(value=level, mode=self.mode)

    def value(self, site: Site, choice: Choice | None) -> Level:
        """k, or None for all."""
        return choice.value if isinstance(choice, Setting) else None

    def misfit(self, site: Site, choice: Choice) -> str | None:
        """Only a setting in one of the modes fits."""
        if not isinstance(choice, Setting):
            return "takes a k, not units to keep"
        if choice.mode not in self.modes:
            return f"has the mode {choice.mode!r}, not one of {', '.join(self.modes)}"
        return None

    def cut(self, site: Site, choice: Choice, state: MutableMapping[str, Tensor]) -> None:
        """No tensor changes: k is an attribute of the layer."""


class UnitRemoval(Approximation):
    """Removes units of a block: the tensors get smaller, nothing is masked."""

    fractions: ClassVar[tuple[float, ...]]

    @abstractmethod
    def grain(self, site: Site) -> int:
        """Kept counts are multiples of this."""

    def levels(self, site: Site, part: int = 0) -> tuple[Level, ...]:
        """Unit counts, all of them first, none (block removed) last."""
        grain, count = self.grain(site), site.units.count
        counts = {count, 0}
        counts |= {max(grain, round(share * count / grain) * grain) for share in self.fractions}
        return tuple(sorted((c for c in counts if c <= count), reverse=True))

    def choice(
        self, site: Site, level: Level, order: Sequence[int], part: int = 0
    ) -> Choice | None:
        """Keep the ``level`` most important units."""
        count = site.units.count
        if level is None or not 0 <= level <= count:
            raise ValueError(f"{self.name} at {site.id} keeps 0 to {count} units, not {level}")
        if level == count:
            return None
        return Kept(of=count, kept=tuple(sorted(order[count - level :])))

    def value(self, site: Site, choice: Choice | None) -> Level:
        """How many units are kept."""
        return len(choice.kept) if isinstance(choice, Kept) else site.units.count

    def misfit(self, site: Site, choice: Choice) -> str | None:
        """A recipe of a model with another number of units does not fit."""
        if not isinstance(choice, Kept):
            return "takes units to keep, not a setting"
        if choice.of != site.units.count:
            return f"was made for {choice.of} units, this model has {site.units.count}"
        return None

    def cut(self, site: Site, choice: Choice, state: MutableMapping[str, Tensor]) -> None:
        """Keep only the rows and columns of the kept units; drop all tensors if none is kept."""
        assert isinstance(choice, Kept)
        units = site.units
        if not choice.kept:
            for name in (*(axis.tensor for axis in units.axes), *units.whole):
                state.pop(name, None)
            return
        for axis in units.axes:
            if axis.tensor not in state:  # a projection without bias
                continue
            shape = (axis.parts, units.count, units.width)
            apart = state[axis.tensor].unflatten(axis.dim, shape)
            kept = apart[(slice(None),) * (axis.dim + 1) + (list(choice.kept),)]
            state[axis.tensor] = kept.flatten(axis.dim, axis.dim + 2)


class BlockRemoval(UnitRemoval):
    """Removes whole blocks: the last level of ``heads`` or ``ffn``, for a search over blocks."""

    searched = False
    fractions = ()

    @abstractmethod
    def recorded(self, kind: SiteKind) -> str:
        """The name under which a recipe says that no unit is kept."""

    def grain(self, site: Site) -> int:
        """There is nothing between all and none."""
        return site.units.count


class UnitMask(UnitRemoval):
    """Removes any units, whatever their importance: one parameter for each, kept or gone.

    A part is a run of consecutive units. Its two levels say, as those of the other removals do,
    how many units of the block are left: all, or all but its own. What the parts of a site leave
    together is for :meth:`axsearch.space.genome.SearchSpace.recipe`.
    """

    searched = False
    fractions = ()

    @abstractmethod
    def parts(self, site: Site) -> int:
        """How many runs the units are split into; their sizes differ by at most one."""

    @abstractmethod
    def recorded(self, kind: SiteKind) -> str:
        """The name under which a recipe says which units are kept."""

    def grain(self, site: Site) -> int:
        """There is nothing between all of a part and none."""
        return site.units.count

    def levels(self, site: Site, part: int = 0) -> tuple[Level, ...]:
        """All units, then all but those of the part."""
        return (site.units.count, site.units.count - len(self._run(site, part)))

    def choice(
        self, site: Site, level: Level, order: Sequence[int], part: int = 0
    ) -> Choice | None:
        """Keep all units but those of the part; the importance order does not matter."""
        exact, gone = self.levels(site, part)
        if level not in (exact, gone):
            raise ValueError(f"{self.name} at {site.id} keeps {exact} or {gone} units, not {level}")
        if level == exact:
            return None
        run, count = self._run(site, part), site.units.count
        return Kept(of=count, kept=(*range(run.start), *range(run.stop, count)))

    def _run(self, site: Site, part: int) -> range:
        count, parts = site.units.count, self.parts(site)
        return range(count * part // parts, count * (part + 1) // parts)
