"""Measure a latency table: the time of each block in each of its shapes, once a machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from axsearch.approximations import removal
from axsearch.approximations.choices import Choice
from axsearch.approximations.site import OUTSIDE, SiteId, SiteKind
from axsearch.models.base_model import Base
from axsearch.runtimes import Session, open_session
from axsearch.space.genome import SearchSpace
from axsearch.space.latency_table import LatencyTable, block_key
from axsearch.space.recipe import EXACT, Recipe
from axsearch.space.scenario import Scenario
from axsearch.tasks.split import Batch

SECONDS = 55.0
"""Rounds end after this, once there were :data:`FEWEST`, which may take longer for large models."""

ROUNDS = 9
FEWEST = 3
PAIRINGS = 4
"""How often each shape is timed a round, at least, each time beside another one."""

HELD_OUT = 6
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
    network to them. Layers run one after the other, so their times add up: here each layer of a
    dozen models has another pair of shapes, every pass says how long each layer took, and the times
    of attention and FFN are the least squares fit to the medians. So a block is timed with the
    neighbours and the caches that it has in a real model. Each pass is divided by the base's passes
    just before and after it. ``on_round`` receives the number of rounds so far and the most there
    will be.
    """
    layers = sorted({site.layer for site in base.sites if site.layer != OUTSIDE})
    there = {
        kind: _shapes_of_all(space, base.sites, kind)
        for kind in dict.fromkeys(site.kind for site in base.sites if site.layer != OUTSIDE)
    }
    alone = _outside(space, base.sites)
    generator = np.random.default_rng(0)
    with open_session(base.model, scenario) as session, session.quiet():
        passes = [float(session.layer_times(batches)[-1]) for _ in range(2)]
    pairings = PAIRINGS
    while pairings > 1 and FEWEST * _passes(there, layers, pairings) * min(passes) > seconds:
        pairings -= 1  # a large model is timed in fewer pairs of shapes
    designs = [r for _ in range(pairings) for r in _designs(there, layers, generator)]
    held_out = [_random(there, layers, generator) for _ in range(HELD_OUT)]
    recipes = (*designs, *held_out, *alone.values())
    models = [base.model, *(base.shrink(recipe, base.cut(recipe)) for recipe in recipes)]
    rounds = _rounds(models, batches, scenario, seconds, on_round)
    repeats = {site.id.layer: site.repeats for site in base.sites.values()}
    repeats.pop(OUTSIDE, None)
    shares = np.median(rounds, axis=0)
    blocks = _fit([EXACT, *designs], shares[: len(designs) + 1, :-1], repeats, there)
    exact = sum(blocks[kind] for kind in there)
    rest = max(1 - exact * sum(repeats.values()), SMALLEST)
    outside = tuple(site.kind for site in base.sites if site.layer == OUTSIDE)
    blocks |= dict.fromkeys(outside, 0.0)
    blocks |= {key: float(shares[i - len(alone), -1] - 1) for i, key in enumerate(alone)}
    table = LatencyTable(rest, blocks, repeats, outside=outside)
    measured = shares[len(designs) + 1 : len(designs) + 1 + len(held_out), -1]
    errors = [table.ratio(r) / ratio - 1 for r, ratio in zip(held_out, measured, strict=True)]
    return replace(table, error=float(np.mean(np.abs(errors))), rounds=len(rounds))


def _rounds(
    models: Sequence[PreTrainedModel],
    batches: Sequence[Batch],
    scenario: Scenario,
    seconds: float,
    on_round: Callable[[int, int], None] | None,
) -> list[NDArray[np.float64]]:
    """Rounds of all models, the base first, until ``seconds`` are over or there are enough."""
    rounds: list[NDArray[np.float64]] = []
    with ExitStack() as stack:
        opened = [stack.enter_context(open_session(model, scenario)) for model in models]
        for session in opened:
            stack.enter_context(session.quiet())
        for session in opened:
            session.layer_times(batches)  # warm-up
        began = time.perf_counter()
        while len(rounds) < FEWEST or (
            len(rounds) < ROUNDS and time.perf_counter() - began < seconds
        ):
            rounds.append(_round(opened[0], opened[1:], batches))
            if on_round is not None:
                on_round(len(rounds), ROUNDS)
    return rounds


def _passes(
    there: Mapping[SiteKind, dict[str, dict[str, Choice]]], layers: Sequence[int], pairings: int
) -> float:
    """A round's passes, in whole passes of the base; the others take about half of one."""
    models = pairings * -(-max(map(len, there.values())) // len(layers)) + HELD_OUT
    return 1 + 1.5 * models


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


def _designs(
    there: Mapping[SiteKind, dict[str, dict[str, Choice]]],
    layers: Sequence[int],
    generator: np.random.Generator,
) -> list[Recipe]:
    """Models in which every shape is used about as often as any other, no layer being removed."""
    count = -(-max(map(len, there.values())) // len(layers))
    drawn = []
    for keys, choices_of in ((list(own), own) for own in there.values()):
        rounds = -(-count * len(layers) // len(keys))
        order = np.concatenate([generator.permutation(len(keys)) for _ in range(rounds)])
        drawn.append([choices_of[keys[i]] for i in order[: count * len(layers)]])
    pairs = list(zip(*drawn, strict=True))
    blocks = [kind for kind in there if removal(kind) is not None]
    found = []
    for start in range(0, len(pairs), len(layers)):
        choices: dict[SiteId, Mapping[str, Choice]] = {}
        for layer, pair in zip(layers, pairs[start : start + len(layers)], strict=True):
            chosen = dict(zip(there, pair, strict=True))
            if blocks and all(_removes(chosen[kind]) for kind in blocks):
                chosen[blocks[-1]] = {}
            choices |= {SiteId(layer, kind): own for kind, own in chosen.items()}
        found.append(Recipe.of(choices))
    return found


def _random(
    there: Mapping[SiteKind, dict[str, dict[str, Choice]]],
    layers: Sequence[int],
    generator: np.random.Generator,
) -> Recipe:
    return Recipe.of(
        {
            SiteId(layer, kind): list(there[kind].values())[generator.integers(len(there[kind]))]
            for layer in layers
            for kind in there
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


def _without_own_share(
    fitted: dict[str, float], there: Mapping[SiteKind, dict[str, dict[str, Choice]]]
) -> None:
    """Give the time of sites that cannot be removed to the blocks of their layer.

    Only sums were seen, so the split of a layer's time between them is arbitrary; only the
    difference of each shape from the exact one matters.
    """
    blocks = [kind for kind in there if removal(kind) is not None]
    for kind in there:
        if kind in blocks or not blocks:
            continue
        share = fitted[kind]
        fitted |= {key: fitted[key] - share for key in there[kind]}
        for block in blocks:
            fitted |= {key: fitted[key] + share / len(blocks) for key in there[block]}


def _fit(
    recipes: Sequence[Recipe],
    shares: NDArray[np.float64],
    repeats: Mapping[int, int],
    there: Mapping[SiteKind, dict[str, dict[str, Choice]]],
) -> dict[str, float]:
    keys = [key for own in there.values() for key in own]
    column = {key: i for i, key in enumerate(keys)}
    rows, times = [], []
    for recipe, own in zip(recipes, shares, strict=True):
        for (layer, repeat), share in zip(repeats.items(), own, strict=True):
            row = np.zeros(len(keys))
            for kind in there:
                row[column[block_key(recipe, SiteId(layer, kind))]] = 1
            rows.append(row)
            times.append(share / repeat)
    solved = np.linalg.lstsq(np.array(rows), np.array(times), rcond=None)[0]
    fitted = dict(zip(keys, (float(share) for share in solved), strict=True))
    _without_own_share(fitted, there)
    # Only sums of the kinds were seen: what is left of a layer is shared equally by its blocks.
    removed = {kind: next((k for k, c in own.items() if _removes(c)), None)
               for kind, own in there.items()}  # fmt: skip
    known = {kind: fitted[key] for kind, key in removed.items() if key is not None}
    if len(known) > 1:
        mean = sum(known.values()) / len(known)
        for kind, share in known.items():
            fitted |= {key: fitted[key] + mean - share for key in there[kind]}
    return fitted
