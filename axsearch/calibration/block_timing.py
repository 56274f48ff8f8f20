"""Measure a latency table: the time of each block in each of its shapes, once a machine."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Generator, Hashable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from axsearch.approximations import removal
from axsearch.approximations.choices import Choice
from axsearch.approximations.site import OUTSIDE, SiteId, SiteKind
from axsearch.calibration.block_fit import Blocks, Shapes, fit, standard_error
from axsearch.models.base_model import Base
from axsearch.runtimes import Session, open_session
from axsearch.space.genome import SearchSpace
from axsearch.space.latency_table import LatencyTable, block_key, in_group
from axsearch.space.recipe import EXACT, Recipe
from axsearch.space.scenario import Scenario
from axsearch.tasks.split import Batch

SECONDS = 75.0
"""Rounds end after this, once there were :data:`FEWEST`, which may take longer for large models."""

ROUNDS = 15
FEWEST = 3
PAIRINGS = 4
"""How often each shape is timed a round where there is time for it, each time beside another."""

PRECISE = 0.01
"""Rounds end where the standard errors of a kind's shapes are this, as a share of its block."""

BESIDES = 0.01
"""What a block's time depends on besides its shape, as a share of a layer's time: it is part of
the standard errors, since no number of rounds shows it. Seen in models of one size."""

HELD_OUT = 6
"""Models of each kind that are timed but not fitted to: random ones, and those of one size."""

MOST_COUNTS = 8

SMALLEST = 1e-3
"""The rest's share, at least: the noise of a tiny model's times must not make it none."""


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


def measure_latency_table(
    base: Base,
    space: SearchSpace,
    batches: Sequence[Batch],
    scenario: Scenario,
    *,
    seconds: float = SECONDS,
    on_round: Callable[[int, int], None] | None = None,
) -> LatencyTable:
    """Time the shapes of all blocks, inside whole models.

    HAT (arXiv 2005.14187, section on the latency predictor) times thousands of models and fits a
    network to them. Layers run one after the other, so their times add up: here each layer of a few
    models has another pair of shapes, every pass says how long each layer took, and the times of
    attention and FFN are fitted to the medians (:func:`axsearch.calibration.block_fit.fit`). So a
    block is timed with the neighbours and the caches that it has in a real model. Each pass is
    divided by the base's passes just before and after it. ``on_round`` receives the number of
    rounds so far and the most there will be.
    """
    plan = _plan(base, space, batches, scenario, seconds)
    models = [base.model, *(base.shrink(recipe, base.cut(recipe)) for recipe in plan.recipes)]
    rounds: list[NDArray[np.float64]] = []

    def enough() -> bool:
        blocks, _ = _fitted(base, plan, rounds)
        apart = zip(plan.groups, blocks, strict=True)
        return all(found.precision(group.there) <= PRECISE for group, found in apart)

    with closing(_rounds(models, batches, scenario, seconds)) as every:
        for one in every:
            rounds.append(one)
            if on_round is not None:
                on_round(len(rounds), ROUNDS)
            if len(rounds) >= FEWEST and enough():
                break
    fitted, rest = _fitted(base, plan, rounds)
    passes = np.stack(rounds)[:, 1:, -1]  # whole ones, without the base's
    shares = np.median(passes, axis=0)
    outside = tuple(site.kind for site in base.sites if site.layer == OUTSIDE)
    begin = len(plan.designs) + len(plan.random) + len(plan.uniform)
    alone = {key: float(share) - 1 for key, share in zip(plan.alone, shares[begin:], strict=True)}
    besides = BESIDES * (1 - rest) / sum(plan.repeats.values())
    blocks, errors = _joined(plan, fitted)
    spread = standard_error(passes, np.ones(passes.shape[1]))
    table = LatencyTable(
        rest,
        {**blocks, **dict.fromkeys(outside, 0.0), **alone},
        plan.repeats,
        rounds=len(rounds),
        outside=outside,
        errors={key: math.hypot(error, besides) for key, error in errors.items()}
        | dict.fromkeys(alone, spread),
        groups={n: i for i, group in enumerate(plan.groups) for n in group.layers if i},
    )
    apart = np.abs([table.ratio(r) / s - 1 for r, s in zip(plan.recipes, shares, strict=True)])
    ends = np.cumsum([len(plan.designs), len(plan.random), len(plan.uniform)])
    of_random, of_uniform = (float(apart[i:j].mean()) if j > i else 0.0 for i, j in pairwise(ends))
    return replace(table, error=of_random, error_of_one_size=of_uniform)


@dataclass(frozen=True)
class _Group:
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


@dataclass(frozen=True)
class _Plan:
    """The models to time, each in every round."""

    groups: Sequence[_Group]
    repeats: Mapping[int, int]
    designs: Sequence[Recipe]
    random: Sequence[Recipe]
    uniform: Sequence[Recipe]
    alone: Mapping[str, Recipe]

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        return (*self.designs, *self.random, *self.uniform, *self.alone.values())


def _plan(
    base: Base,
    space: SearchSpace,
    batches: Sequence[Batch],
    scenario: Scenario,
    seconds: float,
) -> _Plan:
    """As many models as there is time for, and at least as many as the shapes need."""
    groups = _groups(base, space)
    with open_session(base.model, scenario) as session, session.quiet():
        a_pass = min(float(session.layer_times(batches)[-1]) for _ in range(2))
    least = max([1, *(group.least for group in groups)])
    most = max([least, *(group.most for group in groups)])
    # A model takes a pass, of about half the base's time, and one of the base.
    affordable = int(min(seconds / (FEWEST * 1.5 * max(a_pass, 1e-9)), 1e6))
    held_out = int(np.clip((affordable - least) // 4, 2, HELD_OUT))
    generator = np.random.default_rng(0)
    count = int(np.clip(affordable - 2 * held_out, least, most))
    repeats = {site.id.layer: site.repeats for site in base.sites.values()}
    repeats.pop(OUTSIDE, None)
    return _Plan(
        groups,
        repeats,
        _together([_designs(group, count, generator) for group in groups]),
        [_together([[_random(group, generator)] for group in groups])[0] for _ in range(held_out)],
        _together([_uniform(group, held_out) for group in groups]),
        _outside(space, base.sites),
    )


def _groups(base: Base, space: SearchSpace) -> list[_Group]:
    alike: dict[Hashable, list[int]] = {}
    for layer in sorted({site.layer for site in base.sites if site.layer != OUTSIDE}):
        own = [site for id, site in base.sites.items() if id.layer == layer]
        blocks = tuple((one.id.kind, one.count, *sorted(one.made.items())) for one in own)
        alike.setdefault(blocks, []).append(layer)
    return [_group(base, space, layers) for layers in alike.values()]


def _group(base: Base, space: SearchSpace, layers: Sequence[int]) -> _Group:
    sites = [site for site in base.sites if site.layer in layers]
    there = {
        kind: _shapes_of_all(space, sites, kind)
        for kind in dict.fromkeys(site.kind for site in sites)
    }
    blocks = [kind for kind in there if removal(kind) is not None]
    removed: dict[str, float] = {}
    if len(blocks) == 1:
        own = there[blocks[0]]
        removed = {key: 0.0 for key, choices in own.items() if _removes(choices)}
        there[blocks[0]] = {key: own[key] for key in own if key not in removed}
    return _Group(layers, there, removed)


def _together(groups: Sequence[Sequence[Recipe]]) -> list[Recipe]:
    """Models that join those of each group, which make choices in other layers."""
    return [
        Recipe.of({site: dict(own) for recipe in recipes for site, own in recipe.sites})
        for recipes in itertools.zip_longest(*groups, fillvalue=EXACT)
    ]


def _fitted(
    base: Base, plan: _Plan, rounds: Sequence[NDArray[np.float64]]
) -> tuple[list[Blocks], float]:
    """The blocks of each group of layers, and the share of what lies in no layer."""
    found = np.stack(rounds)
    exact = np.median(found[:, 0, :-1], axis=0)
    blocks = []
    for group in plan.groups:
        cells: list[dict[SiteKind, str]] = []
        added, whole = [], []
        for number, recipe in enumerate(plan.designs, 1):
            for layer in group.layers:
                cells.append({kind: block_key(recipe, SiteId(layer, kind)) for kind in group.there})
                added.append((found[:, number, layer] - exact[layer]) / plan.repeats[layer])
                whole.append(exact[layer] / plan.repeats[layer])
        parameters = dict.fromkeys(group.there, 0)
        for id, site in base.sites.items():
            if id.layer in group.layers:
                parameters[id.kind] += site.unit_parameters * site.count
        share = sum(float(exact[layer]) for layer in group.layers)
        share /= sum(plan.repeats[layer] for layer in group.layers)
        stacked = np.stack(added, axis=1)
        blocks.append(fit(group.there, cells, stacked, np.array(whole), share, parameters))
    in_layers = sum(float(exact[layer]) for layer in plan.repeats)
    return blocks, max(1 - in_layers, SMALLEST)


def _joined(plan: _Plan, fitted: Sequence[Blocks]) -> tuple[dict[str, float], dict[str, float]]:
    """The shares and the errors of all groups, by the keys of a table."""
    shares: dict[str, float] = {}
    errors: dict[str, float] = {}
    for number, (group, found) in enumerate(zip(plan.groups, fitted, strict=True)):
        own = {**found.shares, **group.removed}
        shares |= {in_group(key, number): share for key, share in own.items()}
        errors |= {in_group(key, number): error for key, error in found.errors.items()}
    return shares, errors


def _rounds(
    models: Sequence[PreTrainedModel],
    batches: Sequence[Batch],
    scenario: Scenario,
    seconds: float,
) -> Generator[NDArray[np.float64]]:
    """Rounds of all models, the base first, until ``seconds`` are over or there are enough."""
    with ExitStack() as stack:
        opened = [stack.enter_context(open_session(model, scenario)) for model in models]
        for session in opened:
            stack.enter_context(session.quiet())
        for session in opened:
            session.layer_times(batches)  # warm-up
        began = time.perf_counter()
        for number in range(ROUNDS):
            if number >= FEWEST and time.perf_counter() - began >= seconds:
                return
            yield _round(opened[0], opened[1:], batches)


def _shapes_of_all(
    space: SearchSpace, sites: Iterable[SiteId], kind: SiteKind
) -> dict[str, dict[str, Choice]]:
    found: dict[str, dict[str, Choice]] = {}
    for site in sites:
        if site.kind == kind:
            found |= shapes(space, site)
    return found


def _outside(space: SearchSpace, sites: Iterable[SiteId]) -> dict[str, Recipe]:
    """The shapes of the sites outside of layers, each alone; what they add is read off the pass."""
    return {
        key: Recipe.of({site: choices})
        for site in sites
        if site.layer == OUTSIDE
        for key, choices in shapes(space, site).items()
        if choices
    }


def _designs(group: _Group, count: int, generator: np.random.Generator) -> list[Recipe]:
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
        if blocks and all(_removes(there[kind][cell[kind]]) for kind in blocks):
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


def _uniform(group: _Group, count: int) -> list[Recipe]:
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


def _random(group: _Group, generator: np.random.Generator) -> Recipe:
    return Recipe.of(
        {
            SiteId(layer, kind): list(own.values())[generator.integers(len(own))]
            for layer in group.layers
            for kind, own in group.there.items()
        }
    )


def _removes(choices: Mapping[str, Choice]) -> bool:
    return any(choice.removes for choice in choices.values())


def _round(
    base: Session, models: Sequence[Session], batches: Sequence[Batch]
) -> NDArray[np.float64]:
    """One pass of each model: its layers' and its whole time over that of the base around it.

    Base first, then the models: (1 + models, layers + 1); layers that a model lacks are NaN.
    """
    passes = [base.layer_times(batches)]
    found = []
    for model in models:
        own = model.layer_times(batches)
        passes.append(base.layer_times(batches))
        padded = np.full_like(passes[0], np.nan)
        padded[: len(own) - 1], padded[-1] = own[:-1], own[-1]
        found.append(padded / ((passes[-1][-1] + passes[-2][-1]) / 2))
    return np.stack([np.median([own / own[-1] for own in passes], axis=0), *found])
