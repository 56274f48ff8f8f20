"""A latency table from the times of whole models, for runtimes that convert them.

Such a runtime fuses what belongs to several layers and says little of one. But a model in which
every block of one kind has one shape differs from the base by that shape as often as there are
layers: its time says more of the shape than the time of one layer would. So each shape is timed in
all layers at once, each model in turn with the base, and all are fitted together. What opening a
model costs bounds their number: of several counts of units a few are timed, and a table
interpolates between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
from transformers import PreTrainedModel

from axsearch.approximations import removal
from axsearch.approximations.choices import Choice
from axsearch.approximations.site import OUTSIDE, SiteId
from axsearch.calibration.block_fit import LOST, Blocks, fit_whole
from axsearch.calibration.narrowed_layer import narrowed, narrowed_models, units_of
from axsearch.calibration.timed_models import Group, groups_of, outside_models, removes
from axsearch.evaluation.latency import Latency, measure_latency
from axsearch.evaluation.size import INT8
from axsearch.graphs.structures import structure_key
from axsearch.models.base_model import Base
from axsearch.runtimes import Session, open_session, runtimes
from axsearch.runtimes.base import Inputs
from axsearch.space.genome import SearchSpace
from axsearch.space.latency_table import LatencyTable, block_key, in_group
from axsearch.space.recipe import Recipe
from axsearch.space.scenario import Scenario
from axsearch.tasks.split import Batch

COUNTS = 4
"""Of how many counts of units, besides all and none, a block is timed at most."""

HELD_OUT = 6
"""Random models that are timed but not fitted to."""

OF_ONE_SIZE = 2
"""Models in which all blocks of a kind have the same size that are timed but not fitted to."""

LEAST_PASS = 0.05
"""Seconds that a measured pass takes at least: shorter ones are repeated within one."""

FEWEST, MOST = 3, 15
"""Pairs of passes of a model and the base."""

SPREAD = 1.349
"""Between the quartiles of a normal distribution, in standard deviations."""

SMALLEST = 1e-3
"""The smallest share of the rest, and the smallest standard error of a model's time."""


@dataclass
class _Models:
    """The models to time, by what they are for; ``fitted`` with their group of layers."""

    fitted: list[tuple[int, Recipe]] = field(default_factory=list)
    held_out: list[Recipe] = field(default_factory=list)
    of_one_size: list[Recipe] = field(default_factory=list)
    alone: dict[str, Recipe] = field(default_factory=dict)
    narrowed: list[Recipe] = field(default_factory=list)

    def __iter__(self) -> Iterator[Recipe]:
        yield from (recipe for _, recipe in self.fitted)
        yield from self.held_out
        yield from self.of_one_size
        yield from self.alone.values()
        yield from self.narrowed


def measure_whole_models(
    base: Base,
    space: SearchSpace,
    batches: Sequence[Batch],
    scenario: Scenario,
    examples: Sequence[Inputs] = (),
    *,
    seconds: float,
    on_model: Callable[[int, int], None] | None = None,
) -> LatencyTable:
    """Time the shapes of all blocks, each in all layers of a model, and fit a table to them.

    Args:
        base: the user's model.
        space: all levels that must be known.
        batches: what is timed.
        scenario: where and how.
        examples: inputs with which int8 is calibrated, where it has to be.
        seconds: that the passes of all models are to take together; converting them takes its own
            time.
        on_model: receives the number of models timed so far, and of all.
    """
    groups = [_few(group) for group in groups_of(base, space)]
    models = _models(base, space, groups)
    every = list(dict.fromkeys(models))
    with open_session(base.model, scenario, examples) as session:
        timer = _Timer(session, batches, seconds / len(every))
        _convert_first(base, every, scenario, examples)
        times: dict[str, Latency] = {}
        for number, recipe in enumerate(every, 1):
            small = base.shrink(recipe, base.cut(recipe))
            times[recipe.hash] = timer.time(small, scenario, examples)
            if on_model is not None:
                on_model(number, len(every))
    return _table(base, groups, models, times)


def _convert_first(
    base: Base, recipes: Iterable[Recipe], scenario: Scenario, examples: Sequence[Inputs]
) -> None:
    """Convert one model of each structure before any is timed, where that takes two processes.

    The next model can then be traced while a quantizer looks at this one. Afterwards the others of
    the same structure need neither.
    """
    if scenario.precision != INT8 or not runtimes()[scenario.runtime].quantizes_apart:
        return
    first: dict[str, PreTrainedModel] = {}
    for recipe in recipes:
        small = base.shrink(recipe, base.cut(recipe))
        first.setdefault(structure_key(small), small)

    def convert(model: PreTrainedModel) -> None:
        with open_session(model, scenario, examples, lasting=False):
            pass

    pool = ThreadPoolExecutor(2)
    try:
        for one in [pool.submit(convert, model) for model in first.values()]:
            one.result()
    finally:
        pool.shutdown(cancel_futures=True)


class _Timer:
    """Times models in turn with the base, whose session it has."""

    def __init__(self, base: Session, batches: Sequence[Batch], seconds: float) -> None:
        self._base = base
        a_pass = min(_seconds(base, batches) for _ in range(2))
        repeats = max(1, math.ceil(LEAST_PASS / max(a_pass, 1e-9)))
        self._batches = [*batches] * repeats
        # A model takes about half the base's time, and is timed in turn with it.
        self.pairs = int(np.clip(seconds / (1.5 * a_pass * repeats), FEWEST, MOST))

    def time(
        self, model: PreTrainedModel, scenario: Scenario, examples: Sequence[Inputs]
    ) -> Latency:
        with open_session(model, scenario, examples, lasting=False) as session:
            return measure_latency(self._base, session, self._batches, pairs=self.pairs)


def _seconds(session: Session, batches: Sequence[Batch]) -> float:
    found = measure_latency(session, session, batches, pairs=1)
    return found.base_ms / 1e3


def _few(group: Group) -> Group:
    """The group with some of the counts of units of each kind, the fewest among them."""
    there = {}
    for kind, own in group.there.items():
        counted = {key: n for key, choices in own.items() if (n := _count(choices))}
        keys = sorted(counted, key=lambda key: counted[key])
        places = np.linspace(0, len(keys) - 1, min(COUNTS, len(keys))).round().astype(int)
        kept = {keys[place] for place in places}
        there[kind] = {key: own[key] for key in own if key not in counted or key in kept}
    return replace(group, there=there)


def _count(choices: Mapping[str, Choice]) -> int:
    """How many units a shape keeps that keeps some and does nothing else; otherwise 0."""
    kept = units_of(choices)
    return 0 if kept is None else len(kept.kept)


def _models(base: Base, space: SearchSpace, groups: Sequence[Group]) -> _Models:
    found = _Models()
    for number, group in enumerate(groups):
        for kind, own in group.there.items():
            found.fitted += [
                (number, Recipe.of({SiteId(layer, kind): own[key] for layer in group.layers}))
                for key in list(own)[1:]
            ]
        if (lost := _lost(group)) is not None:
            found.fitted.append((number, lost))
    generator = np.random.default_rng(0)
    patterns = [frozenset[SiteId](), _removed(groups, generator)]
    found.held_out = [
        narrowed(_random(groups, patterns[n % 2], generator), space) for n in range(HELD_OUT)
    ]
    shares = np.linspace(0, 1, OF_ONE_SIZE + 2)[1:-1]
    found.of_one_size = [narrowed(_of_one_size(groups, share), space) for share in shares]
    found.alone = outside_models(space, base.sites)
    exact = narrowed_models(space, {}, max(layer for group in groups for layer in group.layers))
    found.narrowed = [*exact.values()]
    return found


def _lost(group: Group) -> Recipe | None:
    """Every second layer removed; None where there is one layer, or one of its blocks stays."""
    removals = {
        kind: next((choices for choices in own.values() if removes(choices)), None)
        for kind, own in group.there.items()
        if removal(kind) is not None
    }
    if len(group.layers) < 2 or len(removals) < 2 or None in removals.values():
        return None
    layers = list(group.layers)[1::2]
    return Recipe.of(
        {SiteId(layer, kind): own or {} for layer in layers for kind, own in removals.items()}
    )


def _removed(groups: Sequence[Group], generator: np.random.Generator) -> frozenset[SiteId]:
    """Blocks to remove: as many as random levels would, but no whole layer.

    All models that lose blocks lose these, since one with other blocks has to be traced.
    """
    found = []
    for group in groups:
        blocks = [kind for kind in group.there if removal(kind) is not None]
        for layer in group.layers if blocks else ():
            kind = blocks[generator.integers(len(blocks))]
            if len(blocks) > 1 and generator.random() < len(blocks) / len(group.there[kind]):
                found.append(SiteId(layer, kind))
    return frozenset(found)


def _random(
    groups: Sequence[Group], removed: frozenset[SiteId], generator: np.random.Generator
) -> Recipe:
    """Any shapes, but that these blocks and no others are removed."""
    sites: dict[SiteId, dict[str, Choice]] = {}
    for group in groups:
        for layer in group.layers:
            for kind, own in group.there.items():
                site = SiteId(layer, kind)
                among = [c for c in own.values() if removes(c) is (site in removed)]
                sites[site] = dict(among[generator.integers(len(among))]) if among else {}
    return Recipe.of(sites)


def _of_one_size(groups: Sequence[Group], share: float) -> Recipe:
    """All kinds of blocks with the shape at this share of those that keep units."""
    sites: dict[SiteId, dict[str, Choice]] = {}
    for group in groups:
        for kind, own in group.there.items():
            counted = sorted((c for c in own.values() if _count(c)), key=_count)
            if counted:
                choices = counted[round(share * (len(counted) - 1))]
                sites |= {SiteId(layer, kind): dict(choices) for layer in group.layers}
    return Recipe.of(sites)


def _table(
    base: Base, groups: Sequence[Group], models: _Models, times: Mapping[str, Latency]
) -> LatencyTable:
    repeats = {site.id.layer: site.repeats for site in base.sites.values()}
    repeats.pop(OUTSIDE, None)
    fitted = [
        _fitted(base, groups, models, times, number, repeats) for number in range(len(groups))
    ]
    blocks: dict[str, float] = {}
    errors: dict[str, float] = {}
    rest = 1.0
    for number, (group, (found, layer)) in enumerate(zip(groups, fitted, strict=True)):
        blocks |= {in_group(k, number): v for k, v in {**found.shares, **group.removed}.items()}
        errors |= {in_group(k, number): v for k, v in found.errors.items()}
        rest -= layer * sum(repeats[n] for n in group.layers)
    outside = tuple(site.kind for site in base.sites if site.layer == OUTSIDE)
    alone = {key: times[recipe.hash].ratio - 1 for key, recipe in models.alone.items()}
    of_groups = {n: i for i, group in enumerate(groups) for n in group.layers if i}
    table = LatencyTable(
        max(rest, SMALLEST),
        {**blocks, **dict.fromkeys(outside, 0.0), **alone},
        repeats,
        rounds=min(one.pairs for one in times.values()),
        outside=outside,
        errors=errors | dict.fromkeys(alone, _error(times.values())),
        groups=of_groups,
        narrowed=_narrowed(groups, models, times, fitted),
    )
    return replace(
        table,
        error=_off(table, models.held_out, times),
        error_of_one_size=_off(table, models.of_one_size, times),
    )


def _fitted(
    base: Base,
    groups: Sequence[Group],
    models: _Models,
    times: Mapping[str, Latency],
    number: int,
    repeats: Mapping[int, int],
) -> tuple[Blocks, float]:
    """The blocks of one group, and the share of one of its layers."""
    group = groups[number]
    recipes = [recipe for of, recipe in models.fitted if of == number]
    counts: list[dict[str, int]] = []
    for recipe in recipes:
        own: dict[str, int] = {}
        for layer in group.layers:
            for kind in group.there:
                key = block_key(recipe, SiteId(layer, kind))
                own[key] = own.get(key, 0) + repeats[layer]
            blocks = [kind for kind in group.there if removal(kind) is not None]
            if len(blocks) > 1 and all(recipe.removed(layer, kind) for kind in blocks):
                own[LOST] = own.get(LOST, 0) + repeats[layer]
        counts.append(own)
    parameters = dict.fromkeys(group.there, 0)
    for id, site in base.sites.items():
        if id.layer in group.layers:
            parameters[id.kind] += site.unit_parameters * site.count
    ratios = np.array([times[recipe.hash].ratio for recipe in recipes])
    error = _error(times[recipe.hash] for recipe in recipes)
    return fit_whole(group.there, counts, ratios, error, sum(repeats.values()), parameters)


def _narrowed(
    groups: Sequence[Group],
    models: _Models,
    times: Mapping[str, Latency],
    fitted: Sequence[tuple[Blocks, float]],
) -> dict[str, float]:
    """The shares of the blocks of a narrowed last layer, by their shapes.

    Such a layer takes so little that the differences between its shapes are lost in the noise of
    whole models: every shape takes the same part of its time in a layer that is not narrowed.
    """
    if not models.narrowed:
        return {}
    number = max(range(len(groups)), key=lambda n: max(groups[n].layers))
    blocks, layer = fitted[number]
    (exact,) = models.narrowed
    part = float(np.clip(1 + (times[exact.hash].ratio - 1) / layer, 0, 1))
    return {
        in_group(key, number): part * blocks.shares[key]
        for kind, own in groups[number].there.items()
        if removal(kind) is not None
        for position, key in enumerate(own)
        if not position or removes(own[key]) or _count(own[key])
    }


def _error(found: Iterable[Latency]) -> float:
    """The standard error of a ratio, from the quartiles of all: each alone says little."""
    spreads = [(one.high - one.low) / one.ratio / SPREAD / math.sqrt(one.pairs) for one in found]
    return max(SMALLEST, 1.2533 * float(np.median(spreads or [0.0])))


def _off(table: LatencyTable, recipes: Sequence[Recipe], times: Mapping[str, Latency]) -> float:
    """The mean error of a table on models, relative to their times."""
    off = [abs(table.ratio(recipe) / times[recipe.hash].ratio - 1) for recipe in recipes]
    return float(np.mean(off)) if off else 0.0
