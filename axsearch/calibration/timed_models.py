"""The models on which a latency table is measured: which shapes their blocks have."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from axsearch.approximations import recorded, removal
from axsearch.approximations.choices import Choice
from axsearch.approximations.site import OUTSIDE, SiteId, SiteKind
from axsearch.calibration.block_fit import Shapes
from axsearch.models.base_model import Base
from axsearch.space.genome import SearchSpace
from axsearch.space.latency_table import block_key
from axsearch.space.recipe import EXACT, Recipe

PAIRINGS = 4
"""How often each shape is timed a round where there is time for it, each time beside another."""

MOST_COUNTS = 8


def shapes(space: SearchSpace, site: SiteId) -> dict[str, dict[str, Choice]]:
    """The shapes of a site's block that must be measured to know all that a space can give it.

    Those are the exact one, first, and each level alone; of a mask, whose parts go one by one, a
    few counts.
    """
    exact = space.exact()
    genomes = [exact]
    own = [d for d in space.dimensions if site in {one.id for one in d.sites}]
    for name in dict.fromkeys(d.approximation.name for d in own):
        parts = [d for d in own if d.approximation.name == name]
        if len(parts) == 1:
            levels = range(1, len(parts[0].levels))
            genomes += [{**exact, parts[0].name: level} for level in levels]
        else:
            ends = np.linspace(1, len(parts), min(len(parts), MOST_COUNTS)).round().astype(int)
            genomes += [{**exact, **{d.name: 1 for d in parts[:end]}} for end in ends]
    found: dict[str, dict[str, Choice]] = {}
    for genome in genomes:
        choices = space.recipe(genome).at(*site)
        found.setdefault(block_key(Recipe.of({site: choices}), site), choices)
    return found


@dataclass(frozen=True)
class Group:
    """Layers that have the same blocks in the base, and the shapes that these can have.

    Those of a user's model are one group. An export may have layers of several sizes: the time of a
    block in one of them says little of the others. ``removed`` has the shapes that need no timing:
    without the only block of its layer a layer takes no time.
    """

    layers: Sequence[int]
    there: Shapes
    removed: Mapping[str, float]

    @property
    def least(self) -> int:
        """How many models it takes to have each shape in one of the layers."""
        return -(-sum(len(own) - 1 for own in self.there.values()) // len(self.layers))

    @property
    def most(self) -> int:
        """How many models have each shape as often as is of use."""
        return PAIRINGS * -(-max(map(len, self.there.values())) // len(self.layers))


def groups_of(base: Base, space: SearchSpace) -> list[Group]:
    """The layers of the base, those with the same blocks together."""
    alike: dict[Hashable, list[int]] = {}
    for layer in sorted({site.layer for site in base.sites if site.layer != OUTSIDE}):
        own = [site for id, site in base.sites.items() if id.layer == layer]
        blocks = tuple((one.id.kind, one.count, *sorted(one.made.items())) for one in own)
        alike.setdefault(blocks, []).append(layer)
    return [_group(base, space, layers) for layers in alike.values()]


def _group(base: Base, space: SearchSpace, layers: Sequence[int]) -> Group:
    sites = [site for site in base.sites if site.layer in layers]
    there = {
        kind: _shapes_of_all(space, sites, kind)
        for kind in dict.fromkeys(site.kind for site in sites)
    }
    blocks = [kind for kind in there if removal(kind) is not None]
    removed: dict[str, float] = {}
    if len(blocks) == 1:
        own = there[blocks[0]]
        removed = {key: 0.0 for key, choices in own.items() if removes(choices)}
        there[blocks[0]] = {key: own[key] for key in own if key not in removed}
    return Group(layers, there, removed)


def together(groups: Sequence[Sequence[Recipe]]) -> list[Recipe]:
    """Models that join those of each group, which make choices in other layers."""
    return [
        Recipe.of({site: dict(own) for recipe in recipes for site, own in recipe.sites})
        for recipes in itertools.zip_longest(*groups, fillvalue=EXACT)
    ]


def _shapes_of_all(
    space: SearchSpace, sites: Iterable[SiteId], kind: SiteKind
) -> dict[str, dict[str, Choice]]:
    found: dict[str, dict[str, Choice]] = {}
    for site in sites:
        if site.kind == kind:
            found |= shapes(space, site)
    return found


def outside_models(space: SearchSpace, sites: Iterable[SiteId]) -> dict[str, Recipe]:
    """The shapes of the sites outside of layers, each alone; what they add is read off the pass."""
    return {
        key: Recipe.of({site: choices})
        for site in sites
        if site.layer == OUTSIDE
        for key, choices in shapes(space, site).items()
        if choices and not any(_is_not_timed_alone(site.kind, name) for name in choices)
    }


def _is_not_timed_alone(kind: SiteKind, name: str) -> bool:
    found = recorded(kind)[name]
    return found.narrows or not found.timed


def designs(group: Group, count: int, generator: np.random.Generator) -> list[Recipe]:
    """So many models in which every shape is used about as often as any other.

    Each shape is there once with exact blocks beside it, so that a fit can tell all of them apart,
    and otherwise with random ones. No layer is removed.
    """
    there, layers = group.there, group.layers
    exact = {kind: next(iter(own)) for kind, own in there.items()}
    cells = [{**exact, kind: key} for kind, own in there.items() for key in list(own)[1:]]
    wanted = count * len(layers) - len(cells)
    columns = []
    for own in there.values():
        rounds = -(-wanted // len(own))
        order = [list(own)[i] for _ in range(rounds) for i in generator.permutation(len(own))]
        columns.append(order[:wanted])
    cells += [dict(zip(there, drawn, strict=True)) for drawn in zip(*columns, strict=True)]
    blocks = [kind for kind in there if removal(kind) is not None]
    for cell in cells:
        if blocks and all(removes(there[kind][cell[kind]]) for kind in blocks):
            cell[blocks[-1]] = exact[blocks[-1]]
    places = generator.permutation(len(cells))  # so that no model is made of small blocks only
    return [
        Recipe.of(
            {
                SiteId(layer, kind): there[kind][key]
                for layer, i in zip(layers, places[start : start + len(layers)], strict=True)
                for kind, key in cells[i].items()
            }
        )
        for start in range(0, len(cells), len(layers))
    ]


def uniform_models(group: Group, count: int) -> list[Recipe]:
    """Models in which one kind of block has one shape in all layers: those in the middle of each.

    Errors of shapes cancel in random models, and add up in these. Where there are few models, each
    kind has one.
    """
    there, layers = group.there, group.layers
    kinds = [kind for kind, own in there.items() if len(own) > 1]
    found = []
    for number, kind in enumerate(kinds):
        own = list(there[kind].values())[1:]
        share = max(1, len(range(number, count, len(kinds))))
        for i in np.unique(np.linspace(0, len(own) - 1, share + 2)[1:-1].round().astype(int)):
            found.append(Recipe.of({SiteId(layer, kind): own[i] for layer in layers}))
    return found


def random_model(group: Group, generator: np.random.Generator) -> Recipe:
    """A model in which each block of a group has any of its shapes."""
    return Recipe.of(
        {
            SiteId(layer, kind): list(own.values())[generator.integers(len(own))]
            for layer in group.layers
            for kind, own in group.there.items()
        }
    )


def removes(choices: Mapping[str, Choice]) -> bool:
    """Whether a shape is that of a removed block."""
    return any(choice.removes for choice in choices.values())
