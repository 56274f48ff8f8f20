"""Measure a latency table: the time of each block in each of its shapes, once a machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from axsearch.approximations.site import OUTSIDE, SiteId, SiteKind
from axsearch.calibration.block_fit import Blocks, fit, standard_error
from axsearch.calibration.narrowed_layer import narrowed, narrowed_models, narrowed_shares
from axsearch.calibration.timed_models import (
    Group,
    designs,
    groups_of,
    outside_models,
    random_model,
    together,
    uniform_models,
)
from axsearch.calibration.whole_models import measure_whole_models
from axsearch.models.base_model import Base
from axsearch.runtimes import Session, open_session, runtimes
from axsearch.runtimes.base import Inputs
from axsearch.space.genome import SearchSpace
from axsearch.space.latency_table import LatencyTable, block_key, in_group
from axsearch.space.recipe import Recipe
from axsearch.space.scenario import Scenario
from axsearch.tasks.split import Batch

SECONDS = 75.0
"""Rounds end after this, once there were :data:`FEWEST`, which may take longer for large models."""

ROUNDS = 15
FEWEST = 3
PRECISE = 0.01
"""Rounds end where the standard errors of a kind's shapes are this, as a share of its block."""

BESIDES = 0.01
"""What a block's time depends on besides its shape, as a share of a layer's time: it is part of
the standard errors, since no number of rounds shows it. Seen in models of one size."""

HELD_OUT = 6
"""Models of each kind that are timed but not fitted to: random ones, and those of one size."""

SMALLEST = 1e-3
"""The rest's share, at least: the noise of a tiny model's times must not make it none."""


def measure_latency_table(
    base: Base,
    space: SearchSpace,
    batches: Sequence[Batch],
    scenario: Scenario,
    examples: Sequence[Inputs] = (),
    *,
    seconds: float = SECONDS,
    on_round: Callable[[int, int], None] | None = None,
) -> LatencyTable:
    """Time the shapes of all blocks, inside whole models.

    Where the runtime converts models, :mod:`axsearch.calibration.whole_models` does it.

    HAT (arXiv 2005.14187, section on the latency predictor) times thousands of models and fits a
    network to them. Layers run one after the other, so their times add up: here each layer of a few
    models has another pair of shapes, every pass says how long each layer took, and the times of
    attention and FFN are fitted to the medians (:func:`axsearch.calibration.block_fit.fit`). So a
    block is timed with the neighbours and the caches that it has in a real model. Each pass is
    divided by the base's passes just before and after it. ``on_round`` receives the number of
    rounds so far and the most there will be.
    """
    if runtimes()[scenario.runtime].converts:
        return measure_whole_models(
            base, space, batches, scenario, examples, seconds=seconds, on_model=on_round
        )
    plan = _plan(base, space, batches, scenario, seconds)
    models = [base.model, *(base.shrink(recipe, base.cut(recipe)) for recipe in plan.recipes)]
    rounds: list[NDArray[np.float64]] = []
    with closing(_rounds(models, batches, scenario, seconds)) as every:
        for one in every:
            rounds.append(one)
            if on_round is not None:
                on_round(len(rounds), ROUNDS)
            if len(rounds) >= FEWEST and _precise(base, plan, rounds):
                break
    fitted, rest = _fitted(base, plan, rounds)
    passes = np.stack(rounds)[:, 1:, -1]  # whole ones, without the base's
    shares = np.median(passes, axis=0)
    outside = tuple(site.kind for site in base.sites if site.layer == OUTSIDE)
    begin = len(plan.designs) + len(plan.random) + len(plan.uniform)
    alone = {key: float(shares[begin + n]) - 1 for n, key in enumerate(plan.alone)}
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
        narrowed=_narrowed(plan, rounds),
    )
    apart = np.abs([table.ratio(r) / s - 1 for r, s in zip(plan.recipes, shares, strict=True)])
    ends = np.cumsum([len(plan.designs), len(plan.random), len(plan.uniform)])
    of_random, of_uniform = (float(apart[i:j].mean()) if j > i else 0.0 for i, j in pairwise(ends))
    return replace(table, error=of_random, error_of_one_size=of_uniform)


@dataclass(frozen=True)
class _Plan:
    """The models to time, each in every round."""

    groups: Sequence[Group]
    repeats: Mapping[int, int]
    designs: Sequence[Recipe]
    random: Sequence[Recipe]
    uniform: Sequence[Recipe]
    alone: Mapping[str, Recipe]
    narrowed: Mapping[str, Recipe]

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        fitted = (*self.designs, *self.random, *self.uniform)
        return (*fitted, *self.alone.values(), *self.narrowed.values())

    @property
    def last(self) -> int:
        """The last layer of the base."""
        return max(layer for group in self.groups for layer in group.layers)


def _plan(
    base: Base,
    space: SearchSpace,
    batches: Sequence[Batch],
    scenario: Scenario,
    seconds: float,
) -> _Plan:
    """As many models as there is time for, and at least as many as the shapes need."""
    groups = groups_of(base, space)
    with open_session(base.model, scenario) as session, session.quiet():
        a_pass = min(float(session.layer_times(batches)[-1]) for _ in range(2))
    least = max([1, *(group.least for group in groups)])
    most = max([least, *(group.most for group in groups)])
    # A model takes a pass, of about half the base's time, and one of the base.
    affordable = int(min(seconds / (FEWEST * 1.5 * max(a_pass, 1e-9)), 1e6))
    last = max(groups, key=lambda group: max(group.layers))
    last_layer = narrowed_models(space, last.there, max(last.layers))
    affordable -= len(last_layer)
    held_out = int(np.clip((affordable - least) // 4, 2, HELD_OUT))
    generator = np.random.default_rng(0)
    count = int(np.clip(affordable - 2 * held_out, least, most))
    repeats = {site.id.layer: site.repeats for site in base.sites.values()}
    repeats.pop(OUTSIDE, None)
    fitted_to = together([designs(group, count, generator) for group in groups])
    random = [
        together([[random_model(group, generator)] for group in groups])[0] for _ in range(held_out)
    ]
    uniform = together([uniform_models(group, held_out) for group in groups])
    return _Plan(
        groups,
        repeats,
        fitted_to,
        [narrowed(recipe, space) for recipe in random],
        [narrowed(recipe, space) for recipe in uniform],
        outside_models(space, base.sites),
        last_layer,
    )


def _precise(base: Base, plan: _Plan, rounds: Sequence[NDArray[np.float64]]) -> bool:
    """Whether the shapes of all kinds are known well enough."""
    blocks, _ = _fitted(base, plan, rounds)
    apart = zip(plan.groups, blocks, strict=True)
    return all(found.precision(group.there) <= PRECISE for group, found in apart)


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


def _narrowed(plan: _Plan, rounds: Sequence[NDArray[np.float64]]) -> dict[str, float]:
    """The shares of the blocks of a narrowed last layer, by their shapes."""
    if not plan.narrowed:
        return {}
    begin = 1 + len(plan.recipes) - len(plan.narrowed)
    times = np.median(np.stack(rounds)[:, begin:, plan.last], axis=0)
    number = next(n for n, group in enumerate(plan.groups) if plan.last in group.layers)
    known = dict(zip(plan.narrowed, times.tolist(), strict=True))
    found = narrowed_shares(plan.groups[number].there, known)
    return {in_group(key, number): share for key, share in found.items()}


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
