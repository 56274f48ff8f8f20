"""The latency table from whole models, with a clock that is told what each block takes."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from axsearch.approximations.site import OUTSIDE, STACK, SiteId
from axsearch.calibration import block_timing, whole_models
from axsearch.calibration.block_timing import measure_latency_table
from axsearch.calibration.costs import slower_levels
from axsearch.evaluation.latency import Latency
from axsearch.models.base_model import Base
from axsearch.space.genome import SearchSpace
from axsearch.space.latency_table import LatencyTable
from axsearch.space.recipe import Recipe
from axsearch.space.scenario import Scenario
from axsearch.testing.models import random_model
from tests.calibration.test_block_timing import Clock, Opened, random_recipes

SCENARIO = Scenario(threads=1, runtime="onnxruntime", precision="int8")
NAMES = ("heads", "ffn", "one_token")


class Watch:
    """Measures what the clock says, of models that are opened one at a time."""

    def __init__(self, clock: Clock, noise: float) -> None:
        self.clock, self.noise = clock, noise
        self.timed: list[Recipe] = []
        self.open_now = self.most = 0
        self.asked: list[tuple[Any, bool]] = []

    def open(self, model: Any, scenario: Scenario, examples: Any, *, lasting: bool = True) -> Any:
        assert scenario == SCENARIO
        self.asked.append((examples, lasting))
        session = self.clock.open(model, scenario)
        self.open_now += 1
        self.most = max(self.most, self.open_now)

        def close() -> None:
            self.open_now -= 1

        session.close = close  # type: ignore[method-assign]
        return session

    def measure(self, base: Opened, model: Opened, batches: Any, *, pairs: int) -> Latency:
        self.timed.append(model.recipe)
        ratio = self.clock.ratio(model.recipe)
        found = ratio * np.exp(self.clock.draw.normal(0, self.noise, pairs))
        low, middle, high = np.quantile(found, (0.25, 0.5, 0.75))
        return Latency(100 * middle, 100.0, float(middle), float(low), float(high), pairs)


def measured(
    monkeypatch: pytest.MonkeyPatch,
    *,
    names: Sequence[str] = NAMES,
    kind: str = "bert",
    layers: int = 6,
    noise: float = 0.0,
    **more: Any,
) -> tuple[LatencyTable, Watch, SearchSpace]:
    base = Base(random_model(kind, num_hidden_layers=layers), 40)
    space = SearchSpace(
        list(base.sites.values()), {i: range(s.count) for i, s in base.sites.items()}, names=names
    )
    repeats = {i.layer: s.repeats for i, s in base.sites.items() if i.layer != OUTSIDE}
    watch = Watch(Clock(repeats, 0.0, 0.0, stays=kind == "albert"), noise)
    monkeypatch.setattr(whole_models, "open_session", watch.open)
    monkeypatch.setattr(whole_models, "measure_latency", watch.measure)
    monkeypatch.setattr(Base, "shrink", lambda _, r, state: SimpleNamespace(recipe=r))
    monkeypatch.setattr(Base, "cut", lambda _, r: {})
    table = measure_latency_table(base, space, [], SCENARIO, ["an example"], seconds=1e9, **more)
    return table, watch, space


def errors(table: LatencyTable, watch: Watch, space: SearchSpace) -> np.ndarray[Any, Any]:
    recipes = random_recipes(space)
    true = np.array([watch.clock.ratio(recipe) for recipe in recipes])
    found = np.array([table.ratio(recipe) for recipe in recipes])
    return (found / true - 1)[true > 0.2]


def test_ratios_are_near_those_of_whole_models(monkeypatch: pytest.MonkeyPatch) -> None:
    table, watch, space = measured(monkeypatch)
    # Of some counts of units none was timed: what lies between is not on a line.
    assert np.abs(errors(table, watch, space)).mean() < 0.01
    assert table.error < 0.02
    assert table.error_of_one_size < 0.02
    assert table.ratio(Recipe.of({})) == pytest.approx(1, abs=1e-9)


def test_noise_is_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    table, watch, space = measured(monkeypatch, noise=0.02)
    assert np.abs(errors(table, watch, space)).mean() < 0.025
    assert table.rounds == whole_models.MOST
    assert all(0 < error < 0.02 for error in table.errors.values())


def test_few_structures_are_timed_and_one_model_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[tuple[int, int]] = []
    _, watch, _ = measured(monkeypatch, on_round=lambda *done: told.append(done))
    assert watch.most == 2  # the base, too
    assert watch.asked[0] == (["an example"], True)
    assert set(map(str, watch.asked[1:])) == {str((["an example"], False))}
    of_models = dict.fromkeys(watch.timed)
    structures = {
        (
            bool(recipe.at(OUTSIDE, STACK)),
            *(site for site, _ in recipe.sites if recipe.removed(*site)),
        )
        for recipe in of_models
    }
    assert len(structures) <= 7
    assert told[-1][0] == told[-1][1] == len(told) == len(of_models) - 1  # the base is none of them


def test_layers_with_shared_weights_count_as_often_as_they_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table, watch, space = measured(monkeypatch, names=("heads", "ffn"), kind="albert")
    assert table.repeats == {0: 3, 1: 3}
    assert np.abs(errors(table, watch, space)).mean() < 0.02


def test_a_space_of_one_kind_and_frozen_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    table, watch, space = measured(monkeypatch, names=("ffn",), layers=2)
    assert np.abs(errors(table, watch, space)).mean() < 0.02
    assert "attention" in table.blocks


def test_no_level_is_left_out_that_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    table, _, space = measured(monkeypatch, noise=0.01)
    assert slower_levels(space, table) == {}


def test_a_last_layer_of_one_token_saves_what_it_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    table, watch, space = measured(monkeypatch)
    narrowing = next(d for d in space.dimensions if d.approximation.narrows)
    for heads in (0, 2, len(space.dimensions[0].levels) - 1):
        genome = {**space.exact(), narrowing.name: 1, "layer05.heads": heads}
        recipe = space.recipe(genome)
        assert table.ratio(recipe) == pytest.approx(watch.clock.ratio(recipe), rel=0.02)
    assert SiteId(OUTSIDE, STACK) in dict(recipe.sites)


def test_runtimes_that_tell_layers_apart_are_timed_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(block_timing, "measure_whole_models", never)
    base = Base(random_model("bert"))
    space = SearchSpace(
        list(base.sites.values()), {i: range(s.count) for i, s in base.sites.items()}, names=["ffn"]
    )
    with pytest.raises(AssertionError):
        measure_latency_table(base, space, [], SCENARIO)
