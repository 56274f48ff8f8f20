"""What an approximation is: the half without torch, which a search, a front and a report need.

An approximation is a folder here of two halves. ``choice.py`` holds a subclass of
:class:`Approximation`; ``modeling.py`` a subclass of
:class:`axsearch.approximations.modeling.Modeling`, which cuts tensors and changes modules. One that
writes its choices under another's name, as ``head_mask`` does, has no ``modeling.py``.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from axsearch import discovery
from axsearch.approximations.choices import Choice, Kept, Level, Setting
from axsearch.approximations.site import Site, SiteKind

if TYPE_CHECKING:
    from axsearch.approximations.modeling import Modeling


class Approximation(ABC):
    """A way to make a part of a model cheaper.

    When its methods are called:

    - A search builds its genome: :meth:`group` returns the sites of a layer that one parameter
      sets, :meth:`parts` how many parameters there are, :meth:`levels` the values that each may
      take. The parameter is called ``layer03.<name>``, or ``layer03.<name>.05`` with several parts;
      one that is :attr:`shared` by all layers is called ``layers.<name>``.
      Of a base that is an export only the levels that go :meth:`further` are left.
    - A trial turns levels into a recipe: :meth:`choice` returns what a level writes, and
      :meth:`recorded` the name that it is written under. A recipe knows fewer names than a genome,
      since equal models must be equal recipes: removing a block is to keep none of its heads.
    - A recipe is made canonical: :meth:`idle` returns whether a choice has no effect beside others.
    - A base is made smaller: :meth:`misfit` refuses a choice that does not fit the site; then
      :attr:`modeling` cuts the tensors and installs what the choice needs.
    - Tables, figures and explanations show it with these words: :attr:`unit`, :attr:`short`,
      :attr:`title`, :attr:`axis`.

    Attributes:
        name: its name in a genome; also the type of its choices, unless :meth:`recorded` differs.
        kinds: the kinds of site at which it works.
        summary: what it does, in a few words.
        searched: whether a search tries it by default.
        needs: what a family must be able to do, such as
            :data:`axsearch.approximations.site.SELECTABLE_SCORES`.
        choice_type: the class of its choices.
        cuts: whether its choices change tensors, so that they change a model's size.
        narrows: whether its choices let the last layer that stays compute only what the head reads,
            so that the time they save is that layer's.
        kernel: whether it saves time only by a kernel of axsearch, which not all runtimes have.
        timed: whether its choices change a model's time, so that it has to be measured.
        plain: whether a class of transformers that holds the base holds a model with its choices,
            by the entries of the config alone.
        portable: whether its parameters can leave a plain checkpoint, as whole layers do. A search
            with ``portable`` takes no others.
        shared: whether one parameter, ``layers.<name>``, sets its sites in all layers.
        unit: what its value counts, as in '4 heads'.
        short: what stands before its value in a cell of a front's table.
        title: the name of its panel in figures; its own name if empty.
        axis: the label of an axis that shows its levels.
        note: a sentence below a front that has models which use it.
        hf_note: a note for the model card of an ``hf`` export that uses it.
    """

    name: ClassVar[str]
    kinds: ClassVar[tuple[SiteKind, ...]]
    summary: ClassVar[str]
    searched: ClassVar[bool] = False
    needs: ClassVar[Collection[str]] = ()
    choice_type: ClassVar[type[Choice]]
    cuts: ClassVar[bool] = True
    narrows: ClassVar[bool] = False
    kernel: ClassVar[bool] = False
    timed: ClassVar[bool] = True
    plain: ClassVar[bool] = False
    portable: ClassVar[bool] = False
    shared: ClassVar[bool] = False
    unit: ClassVar[str] = "units"
    short: ClassVar[str] = ""
    title: ClassVar[str] = ""
    axis: ClassVar[str] = "value of the level"
    note: ClassVar[str] = ""
    hf_note: ClassVar[str] = ""

    @property
    def modeling(self) -> type[Modeling]:
        """The half that needs torch: the subclass of Modeling in ``modeling.py`` of its folder."""
        package = type(self).__module__.rpartition(".")[0]
        base = importlib.import_module("axsearch.approximations.modeling").Modeling
        (found,) = discovery.members(importlib.import_module(f"{package}.modeling"), base)
        return found

    def recorded(self, kind: SiteKind) -> str:
        """The name that a recipe gives to the choice at a site of this kind."""
        return self.name

    def group(self, sites: Sequence[Site]) -> tuple[Site, ...]:
        """The sites of one layer that a parameter sets together; none where it does not apply.

        Args:
            sites: all those of the layer, in the order of a forward pass; or the one site that
                lies outside of all layers.
        """
        found = tuple(site for site in sites if site.id.kind in self.kinds)
        return found if len(found) == len(self.kinds) else ()

    def parts(self, site: Site) -> int:
        """How many parameters it has at this site, each with levels of its own."""
        return 1

    @abstractmethod
    def levels(self, site: Site, part: int = 0) -> tuple[Level, ...]:
        """The values its choice may take at this site, from exact to most approximate."""

    def further(self, site: Site, level: Level) -> bool:
        """Whether a level is more approximate than what the base has at the site already."""
        before = site.made.get(self.recorded(site.id.kind))
        return before is None or (level is not None and level < before)

    @abstractmethod
    def choice(
        self, site: Site, level: Level, order: Sequence[int], part: int = 0
    ) -> Choice | None:
        """The choice of a level; ``order`` lists the units, least important first.

        None where the level is exact.
        """

    def value(self, site: Site, choice: Choice | None) -> Level:
        """The level of a choice; no choice is the exact level, or what an export has already."""
        return site.made.get(self.recorded(site.id.kind)) if choice is None else choice.level

    @abstractmethod
    def misfit(self, site: Site, choice: Choice) -> str | None:
        """Why a choice, which may come from a file, does not fit this site; None if it fits."""

    def remarks(self, choices: Sequence[Choice]) -> tuple[str, ...]:
        """Sentences that an explanation adds where a recipe makes these choices."""
        return ()

    def probe_length(self, choice: Choice) -> int:
        """How many tokens an input needs at least to show that an export obeys a choice."""
        return 0

    def idle(self, choice: Choice, others: Mapping[str, Choice]) -> bool:
        """Whether a choice has no effect beside the ``others`` at its site, by their names."""
        return False


class TopK(Approximation):
    """Keeps the k largest of something and removes no unit: no tensor gets smaller."""

    modes: ClassVar[tuple[str, ...]]
    mode: ClassVar[str]
    choice_type = Setting
    cuts = False

    def choice(
        self, site: Site, level: Level, order: Sequence[int], part: int = 0
    ) -> Choice | None:
        """The k of a level; the importance order does not matter."""
        return None if level is None else Setting(value=level, mode=self.mode)

    def misfit(self, site: Site, choice: Choice) -> str | None:
        """Only a setting in one of the modes fits."""
        if not isinstance(choice, Setting):
            return "takes a k, not units to keep"
        if choice.mode not in self.modes:
            return f"has the mode {choice.mode!r}, not one of {', '.join(self.modes)}"
        return None


class UnitRemoval(Approximation):
    """Removes units of a block: the tensors get smaller, nothing is masked."""

    fractions: ClassVar[tuple[float, ...]]
    choice_type = Kept

    @abstractmethod
    def grain(self, site: Site) -> int:
        """Kept counts are multiples of this."""

    def levels(self, site: Site, part: int = 0) -> tuple[Level, ...]:
        """Unit counts, all of them first, none (block removed) last."""
        grain, count = self.grain(site), site.count
        counts = {count, 0}
        counts |= {max(grain, round(share * count / grain) * grain) for share in self.fractions}
        return tuple(sorted((c for c in counts if c <= count), reverse=True))

    def choice(
        self, site: Site, level: Level, order: Sequence[int], part: int = 0
    ) -> Choice | None:
        """Keep the ``level`` most important units."""
        count = site.count
        if level is None or not 0 <= level <= count:
            raise ValueError(f"{self.name} at {site.id} keeps 0 to {count} units, not {level}")
        if level == count:
            return None
        return Kept(of=count, kept=tuple(sorted(order[count - level :])))

    def value(self, site: Site, choice: Choice | None) -> Level:
        """How many units are kept."""
        return site.count if choice is None else choice.level

    def misfit(self, site: Site, choice: Choice) -> str | None:
        """A recipe of a model with another number of units does not fit."""
        if not isinstance(choice, Kept):
            return "takes units to keep, not a setting"
        if choice.of != site.count:
            return f"was made for {choice.of} units, this model has {site.count}"
        return None


class BlockRemoval(UnitRemoval):
    """Removes whole blocks: the last level of a unit removal, for a search over blocks."""

    fractions = ()

    @abstractmethod
    def recorded(self, kind: SiteKind) -> str:
        """The name under which a recipe says that no unit is kept."""

    def grain(self, site: Site) -> int:
        """Two levels, all and none."""
        return site.count


class UnitMask(UnitRemoval):
    """Removes any units, whatever their importance: one parameter for each, kept or removed.

    A part is a run of consecutive units. Its two levels say, as those of the other removals do,
    how many units of the block are left: all, or all but its own.
    :meth:`axsearch.space.genome.SearchSpace.recipe` joins the parts of a site.
    """

    fractions = ()

    @abstractmethod
    def parts(self, site: Site) -> int:
        """How many runs the units are split into; their sizes differ by at most one."""

    @abstractmethod
    def recorded(self, kind: SiteKind) -> str:
        """The name under which a recipe says which units are kept."""

    def grain(self, site: Site) -> int:
        """A part is kept or removed as a whole."""
        return site.count

    def levels(self, site: Site, part: int = 0) -> tuple[Level, ...]:
        """All units, then all but those of the part."""
        return (site.count, site.count - len(self._run(site, part)))

    def choice(
        self, site: Site, level: Level, order: Sequence[int], part: int = 0
    ) -> Choice | None:
        """Keep all units but those of the part; the importance order does not matter."""
        exact, fewer = self.levels(site, part)
        if level not in (exact, fewer):
            raise ValueError(
                f"{self.name} at {site.id} keeps {exact} or {fewer} units, not {level}"
            )
        if level == exact:
            return None
        run, count = self._run(site, part), site.count
        return Kept(of=count, kept=(*range(run.start), *range(run.stop, count)))

    def _run(self, site: Site, part: int) -> range:
        count, parts = site.count, self.parts(site)
        return range(count * part // parts, count * (part + 1) // parts)
