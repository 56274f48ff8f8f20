"""SearchSpace: the genome of a study, and the way from a genome to a recipe and back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

from optuna.distributions import IntDistribution

from axsearch.approximations import Approximation, Level, approximations
from axsearch.approximations.base import BlockRemoval
from axsearch.approximations.choices import Choice
from axsearch.approximations.site import FFN, OUTSIDE, REWRITABLE, Site, SiteId
from axsearch.errors import UsageError
from axsearch.space.recipe import Compensation, Recipe


@dataclass(frozen=True)
class Dimension:
    """One parameter of the genome: an approximation of a layer, as a level index.

    ``sites`` are the sites that it sets together (two for whole layers, one of each layer where
    all share the parameter), ``levels`` those of the
    first without those ``dropped``, ``levels[0]`` being exact; ``orders`` list each site's units,
    least important first. ``part`` tells apart the parameters of an approximation that has several
    at a site.
    """

    sites: tuple[Site, ...]
    approximation: Approximation
    orders: tuple[tuple[int, ...], ...]
    part: int = 0
    dropped: tuple[Level, ...] = ()

    @cached_property
    def name(self) -> str:
        """The Optuna parameter: ``layer03.heads``, ``layer03.head_mask.05`` for one of parts, or
        ``layers.ffn_width`` for one of all layers.
        """
        place = "layers" if self.approximation.shared else self.sites[0].id.place
        name = f"{place}.{self.approximation.name}"
        return f"{name}.{self.part:02d}" if self.approximation.parts(self.sites[0]) > 1 else name

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """The values of its choice, from exact to most approximate."""
        every = self.approximation.levels(self.sites[0], self.part)
        return tuple(every[position] for position in self._positions)

    def choices(self, index: int) -> dict[SiteId, tuple[str, Choice]]:
        """The choices that level ``index`` writes into a recipe, site by site; none where exact."""
        if index not in self._written:  # which takes milliseconds for a vocabulary
            self._written[index] = self._choices(index)
        return self._written[index]

    @cached_property
    def _written(self) -> dict[int, dict[SiteId, tuple[str, Choice]]]:
        return {}

    def _choices(self, index: int) -> dict[SiteId, tuple[str, Choice]]:
        written = {}
        for site, order in zip(self.sites, self.orders, strict=True):
            level = self.approximation.levels(site, self.part)[self._positions[index]]
            choice = self.approximation.choice(site, level, order, self.part)
            if choice is not None:
                written[site.id] = (self.approximation.recorded(site.id.kind), choice)
        return written

    @cached_property
    def _positions(self) -> tuple[int, ...]:
        # Where the levels left lie among all: another site of the group has the same positions.
        every = [self.approximation.levels(site, self.part) for site in self.sites]
        further = self.approximation.further
        return tuple(
            position
            for position, levels in enumerate(zip(*every, strict=True))
            if levels[0] not in self.dropped
            and (not position or all(map(further, self.sites, levels)))
        )


class SearchSpace:
    """Which levels each site may take.

    A genome has one ordered integer for each layer and approximation, or for each part of it where
    it has several, 0 being exact; the importance order says which heads and neurons a level keeps.

    Args:
        sites: the sites of the base.
        orders: each site's units, least important first; a site without units needs none.
        names: the approximations to try; those that a search tries by default if None.
        frozen: sites to leave as they are.
        compensation: that of every recipe of the space.
        dropped: for each parameter the values of the levels to leave out; a parameter left with the
            exact level only is left out as a whole.

    Raises:
        UsageError: an approximation that is unknown or that the model's family does not support, a
            frozen site that does not exist, or nothing left to search.
        ValueError: a dropped level is the exact one or does not exist.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        orders: Mapping[SiteId, Sequence[int]],
        *,
        names: Collection[str] | None = None,
        frozen: Collection[SiteId] = (),
        compensation: Compensation = "none",
        dropped: Mapping[str, Collection[Level]] = MappingProxyType({}),
    ) -> None:
        self.sites = tuple(sites)
        there = {site.id for site in sites}
        for site_id in frozen:
            if site_id not in there:
                raise UsageError(f"{site_id} cannot be frozen: the model does not have it.")
        check_names(names or ())
        chosen = [_approximation(name, sites) for name in names] if names is not None else None
        for one in chosen or ():
            _check_shared(one, chosen or (), sites, frozen)
        self.compensation = compensation
        ordered = {site.id: tuple(orders[site.id]) if site.units else () for site in sites}
        every = [
            Dimension(group, approximation, tuple(ordered[site.id] for site in group), part)
            for approximation, group in _groups(sites, frozen)
            if (approximation in chosen if chosen is not None else approximation.searched)
            for part in range(approximation.parts(group[0]))
        ]
        _check_dropped(dropped, every)
        left = (replace(d, dropped=tuple(dropped.get(d.name, ()))) for d in every)
        self.dimensions = tuple(d for d in left if len(d.levels) > 1)
        if not self.dimensions:
            raise UsageError("Nothing is left to search: every site is frozen or has one level.")

    def distributions(self) -> dict[str, IntDistribution]:
        """The Optuna distribution of each parameter."""
        return {d.name: IntDistribution(0, len(d.levels) - 1) for d in self.dimensions}

    def exact(self) -> dict[str, int]:
        """The genome of the base model."""
        return {d.name: 0 for d in self.dimensions}

    def recipe(self, genome: Mapping[str, int]) -> Recipe:
        """The recipe of a genome (all of its parameters must be given).

        Where several parameters concern the same units, as ``heads`` and ``layer`` or the parts of
        ``head_mask`` do, the units that all of them keep stay. Of two values of k the smaller one
        holds.
        """
        sites: dict[SiteId, dict[str, Choice]] = {}
        for dimension in self.dimensions:
            for site, (name, choice) in dimension.choices(genome[dimension.name]).items():
                choices = sites.setdefault(site, {})
                choices[name] = choices[name].joined(choice) if name in choices else choice
        return Recipe.of(sites, self.compensation)

    def to_dict(self) -> dict[str, list[Level]]:
        """The levels of each parameter: a study records them to recognise its space."""
        return {d.name: list(d.levels) for d in self.dimensions}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of levels and orders: equal spaces turn a genome into equal recipes."""
        data: Any = [(d.name, d.levels, d.orders, self.compensation) for d in self.dimensions]
        uses = [site.token_use for d in self.dimensions for site in d.sites if site.token_use]
        data += [use.order for use in uses]
        return hashlib.sha256(json.dumps(data).encode()).hexdigest()


def check_names(names: Collection[str]) -> None:
    """Raises UsageError for an approximation that is not known."""
    for name in names:
        if name not in approximations():
            raise UsageError(
                f"Approximation {name!r} is not known; choose from {', '.join(approximations())}."
            )


def supported(names: Collection[str], sites: Sequence[Site]) -> tuple[str, ...]:
    """The approximations that every site of the model supports."""
    return tuple(
        name
        for name in names
        if not any(
            site.refusal(approximations()[name].needs)
            for site in sites
            if site.id.kind in approximations()[name].kinds
        )
    )


def reads_texts(names: Collection[str]) -> bool:
    """Whether one of these approximations depends on which tokens texts have."""
    return any(REWRITABLE in approximations()[name].needs for name in names)


def approximations_of(parameters: Iterable[str]) -> tuple[str, ...]:
    """The approximations that a genome's parameters belong to, such as ``layer03.heads``."""
    known = approximations()
    named = (part for name in parameters for part in name.split(".") if part in known)
    return tuple(dict.fromkeys(named))


def frozen_sites(names: Collection[str], sites: Sequence[Site]) -> frozenset[SiteId]:
    """Read ``layer00`` (both its blocks) and ``layer03.ffn``.

    Raises UsageError for a name that is neither, or that the model does not have.
    """
    found = set()
    for name in names:
        named = {s.id for s in sites if name in (str(s.id), s.id.place)}
        if not named:
            raise UsageError(
                f"{name!r} is no layer or block of this model; write layer00 or "
                f"{SiteId(0, FFN)}, up to {[s.id for s in sites if s.units][-1]}."
            )
        found |= named
    return frozenset(found)


def shared_layers(sites: Sequence[Site]) -> list[str]:
    """Sentences that say which layers of the genome are several layers with shared parameters."""
    return [
        f"{place} stands for {repeats} layers that share their parameters, and so their choices."
        for place, repeats in {site.id.place: site.repeats for site in sites}.items()
        if repeats > 1
    ]


def _approximation(name: str, sites: Sequence[Site]) -> Approximation:
    approximation = approximations()[name]
    for site in sites:
        if site.id.kind in approximation.kinds:
            reason = site.refusal(approximation.needs)
            if reason is not None:
                raise UsageError(f"{name!r} is not supported for this model: {reason}.")
    return approximation


def _by_place(sites: Sequence[Site]) -> list[list[Site]]:
    """The sites of each layer, layer by layer; each site outside of layers on its own."""
    places: dict[str, list[Site]] = {}
    for site in sorted(sites, key=lambda site: (site.id.stack, site.id.layer)):
        places.setdefault(site.id.place, []).append(site)
    return list(places.values())


def _groups(
    sites: Sequence[Site], frozen: Collection[SiteId]
) -> Iterator[tuple[Approximation, tuple[Site, ...]]]:
    """What each parameter of a genome sets, layer by layer; what all layers share comes last."""
    every = approximations().values()
    for together in _by_place(sites):
        for approximation in every:
            if not approximation.shared and (group := _group(approximation, together, frozen)):
                yield approximation, group
    for approximation in every:
        if approximation.shared and (group := _of_all_layers(approximation, sites, frozen)):
            yield approximation, group


def _check_shared(
    one: Approximation,
    others: Sequence[Approximation],
    sites: Sequence[Site],
    frozen: Collection[SiteId],
) -> None:
    """Raises UsageError where one that sets all layers cannot, or another one sets the same."""
    if not one.shared:
        return
    if any(site.id in frozen for site in sites if site.id.kind in one.kinds):
        raise UsageError(f"{one.name!r} sets all layers, so that none of them can be frozen.")
    if not _of_all_layers(one, sites, frozen):
        raise UsageError(f"{one.name!r} sets all layers, which differ in this model.")
    for other in others:
        if other is not one and other.kinds == one.kinds and not isinstance(other, BlockRemoval):
            written = {kind: other.recorded(kind) for kind in other.kinds}
            if written == {kind: one.recorded(kind) for kind in one.kinds}:
                raise UsageError(f"{other.name!r} and {one.name!r} set the same units; take one.")


def _of_all_layers(
    approximation: Approximation, sites: Sequence[Site], frozen: Collection[SiteId]
) -> tuple[Site, ...]:
    """The sites of all layers; none where a layer has no such, or another number of units."""
    found: list[Site] = []
    for together in _by_place(sites):
        group = _group(approximation, together, frozen)
        if not group and together[0].id.layer != OUTSIDE:
            return ()
        found += group
    return tuple(found) if len({site.count for site in found}) == 1 else ()


def _group(
    approximation: Approximation, together: Sequence[Site], frozen: Collection[SiteId]
) -> tuple[Site, ...]:
    group = approximation.group(together)
    usable = all(
        site.id not in frozen and site.refusal(approximation.needs) is None for site in group
    )
    return group if usable else ()


def _check_dropped(dropped: Mapping[str, Collection[Level]], every: Sequence[Dimension]) -> None:
    levels = {d.name: d.levels for d in every}
    for name, values in dropped.items():
        for value in values:
            if value not in levels.get(name, ())[1:]:
                raise ValueError(f"{name} has no level {value} that can be dropped")
