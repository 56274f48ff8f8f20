"""The latency table, with a clock that is told what each block takes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from transformers import PreTrainedModel

import axsearch.runtimes.torch
from axsearch.approximations.choices import Kept, Setting
from axsearch.approximations.site import OUTSIDE, STACK, SiteId
from axsearch.calibration import block_fit, narrowed_layer, timed_models
from axsearch.calibration import block_timing as module_under_test
from axsearch.calibration.block_fit import fit
from axsearch.calibration.block_timing import FEWEST, ROUNDS, measure_latency_table
from axsearch.calibration.costs import slower_levels
from axsearch.calibration.timed_models import shapes
from axsearch.models.base_model import Base
from axsearch.runtimes import Session
from axsearch.space import latency_table
from axsearch.space.genome import SearchSpace
from axsearch.space.latency_table import LatencyTable, block_key
from axsearch.space.recipe import Recipe
from axsearch.space.scenario import Scenario
from axsearch.testing.models import every_site, random_model, short_batch

REST = 0.004


def seconds_of(key: str) -> float:
    """What a block takes: some of it whatever its shape, the rest not linear in its units.

    A k adds to it, or takes away, the same for each unit.
    """
    kind, *choices = key.split()
    whole = {"attention": 0.010, "ffn": 0.018}[kind]
    taken, part = whole, 1.0
    for choice in choices:
        name, _, value = choice.partition("=")
        if name in ("heads", "ffn"):
            part = int(value) / {"heads": 4, "ffn": 64}[name]
            taken = whole * (0.2 + 0.8 * part**0.8) if part else 0.0
        else:
            taken += part * whole * (0.2 - 0.01 * int(value.partition(".")[0]))
    return taken


LAYER = 0.002
"""What a layer takes beside its blocks."""

NARROWED = 0.15
"""What a block takes in a last layer that computes one token, as a share of the whole block."""


def narrowed_seconds(key: str) -> float:
    """The same in such a layer: linear in the units, and no k makes a difference."""
    kind, *choices = key.split()
    units = {"attention": ("heads=", 4), "ffn": ("ffn=", 64)}[kind]
    part = [int(c.removeprefix(units[0])) / units[1] for c in choices if c.startswith(units[0])]
    kept = part[0] if part else 1.0
    return NARROWED * seconds_of(kind) * (0.3 + 0.7 * kept) if kept else 0.0


class Clock:
    """Stands for a runtime and the clock: a machine that drifts and is disturbed."""

    def __init__(
        self,
        repeats: Mapping[int, int],
        drift: float,
        noise: float,
        stays: bool = False,
        seed: int = 0,
    ) -> None:
        self.repeats = repeats
        self.drift = drift
        self.noise = noise
        self.stays = stays
        self.now = 0.0
        self.speed = 1.0
        self.draw = np.random.default_rng(seed)
        self.passes: list[Recipe] = []

    def layers(self, recipe: Recipe) -> list[float]:
        found = []
        lost = {n for n in self.repeats if all(recipe.removed(n, k) for k in ("attention", "ffn"))}
        last = max(self.repeats.keys() - lost, default=None)
        for layer, repeat in self.repeats.items():
            gone = layer in lost
            keys = [block_key(recipe, SiteId(layer, kind)) for kind in ("attention", "ffn")]
            taken = 0.0 if gone else (LAYER + sum(map(seconds_of, keys))) * repeat
            if layer == last and recipe.at(OUTSIDE, STACK):
                taken = NARROWED * LAYER + sum(map(narrowed_seconds, keys))
            if not gone or self.stays:
                found.append(taken)
        return found

    def ratio(self, recipe: Recipe) -> float:
        return (REST + sum(self.layers(recipe))) / (REST + sum(self.layers(Recipe.of({}))))

    def open(self, model: Any, scenario: Scenario) -> Opened:
        return Opened(self, model.recipe if isinstance(model, SimpleNamespace) else Recipe.of({}))

    def timed(self, recipe: Recipe) -> NDArray[np.float64]:
        self.passes.append(recipe)
        self.speed *= np.exp(self.draw.normal(0, self.drift))
        layers = np.array([*self.layers(recipe), REST])
        layers *= self.speed * np.exp(self.draw.normal(0, self.noise, len(layers)))
        if self.noise and self.draw.random() < 0.05:
            layers *= 3  # something else ran
        self.now += 1.0
        return np.array([*layers[:-1], layers.sum()])


class Opened(Session):
    """A model of a recipe, whose passes take what the clock says."""

    def __init__(self, clock: Clock, recipe: Recipe) -> None:
        self.clock = clock
        self.recipe = recipe

    def run(self, batch: Any) -> Mapping[str, Any]:
        raise NotImplementedError

    def layer_times(self, batches: Sequence[Any]) -> NDArray[np.float64]:
        return self.clock.timed(self.recipe)


Measure = Callable[..., tuple[LatencyTable, Clock, SearchSpace]]


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Measure:
    def run(
        model_type: str = "bert",
        *,
        layers: int = 4,
        names: Sequence[str] | None = None,
        drift: float = 0.0,
        noise: float = 0.0,
        frozen: Sequence[SiteId] = (),
        seconds: float = 1e9,
        seed: int = 0,
        **more: Any,
    ) -> tuple[LatencyTable, Clock, SearchSpace]:
        base = random_model(model_type, num_hidden_layers=layers)
        sites = Base(base, 40).sites
        space = SearchSpace(
            list(sites.values()),
            {i: range(s.count) for i, s in sites.items()},
            names=names,
            frozen=frozen,
        )
        repeats = {i.layer: s.repeats for i, s in sites.items() if i.layer != OUTSIDE}
        clock = Clock(repeats, drift, noise, stays=model_type == "albert", seed=seed)
        monkeypatch.setattr(module_under_test, "open_session", clock.open)
        monkeypatch.setattr(Base, "shrink", lambda _, r, state: SimpleNamespace(recipe=r))
        monkeypatch.setattr(Base, "cut", lambda _, r: {})
        watch = SimpleNamespace(perf_counter=lambda: clock.now)
        monkeypatch.setattr(module_under_test, "time", watch)
        return (
            measure_latency_table(Base(base), space, [], Scenario(), seconds=seconds, **more),
            clock,
            space,
        )

    return run


def random_recipes(space: SearchSpace, count: int = 200) -> list[Recipe]:
    draw = np.random.default_rng(5)
    return [
        space.recipe({name: int(draw.integers(d.high + 1)) for name, d in items})
        for items in [tuple(space.distributions().items())] * count
    ]


SPACES: list[Sequence[str] | None] = [
    None,
    ["heads", "ffn", "layer"],
    ["head_mask", "ffn"],
    ["heads", "topk", "topk_hard", "ffn", "ffn_topk"],
]


@pytest.mark.parametrize("names", SPACES, ids=str)
def test_ratios_of_whole_models_are_exact_on_a_still_machine(
    measure: Measure, names: Sequence[str] | None
) -> None:
    table, clock, space = measure(names=names)
    for recipe in random_recipes(space):
        assert table.ratio(recipe) == pytest.approx(clock.ratio(recipe), rel=1e-9)
    assert table.error < 1e-9
    assert table.rounds == FEWEST  # no noise, no doubt


@pytest.mark.parametrize("names", SPACES, ids=str)
def test_ratios_of_whole_models_are_within_1_percent_on_a_busy_one(
    measure: Measure, names: Sequence[str] | None
) -> None:
    table, clock, space = measure(names=names, drift=0.02, noise=0.01)
    recipes = random_recipes(space)
    errors = [table.ratio(r) / clock.ratio(r) - 1 for r in recipes if clock.ratio(r) > 0.2]
    assert np.abs(errors).mean() < 0.01
    assert np.abs(errors).max() < 0.035
    assert 0 < table.error < 0.03
    assert table.ratio(Recipe.of({})) == pytest.approx(1, abs=1e-12)


def test_layers_that_share_their_parameters_count_as_often_as_they_run(measure: Measure) -> None:
    table, clock, space = measure("albert", layers=6)
    assert table.repeats == {0: 3, 1: 3}
    for recipe in random_recipes(space):
        assert table.ratio(recipe) == pytest.approx(clock.ratio(recipe), rel=1e-9)
    assert table.ratio(Recipe.of({})) == pytest.approx(1, abs=1e-12)


def test_removed_layers_cost_nothing_and_removed_blocks_what_is_left_of_theirs(
    measure: Measure,
) -> None:
    table, clock, _ = measure()
    removed = {"heads": Kept(of=4, kept=())}, {"ffn": Kept(of=64, kept=())}
    layer = Recipe.of({SiteId(2, "attention"): removed[0], SiteId(2, "ffn"): removed[1]})
    assert table.layer(layer, 2) == 0
    assert table.layer(layer, 1) > 0.1
    block = Recipe.of({SiteId(2, "attention"): removed[0]})
    whole = REST + sum(clock.layers(Recipe.of({})))
    assert table.layer(block, 2) == pytest.approx((LAYER + seconds_of("ffn")) / whole)
    # What a layer takes beside its blocks is shared alike.
    for key in ("attention heads=0", "ffn ffn=0"):
        assert table.blocks[key] == pytest.approx(LAYER / 2 / whole)
    every = Recipe.of(
        {
            SiteId(n, k): c
            for n in range(4)
            for k, c in zip(("attention", "ffn"), removed, strict=True)
        }
    )
    assert table.ratio(every) == table.rest == pytest.approx(REST / whole)


@pytest.mark.parametrize("names", [*SPACES, ["heads", "head_mask", "ffn", "ffn_mask"]], ids=str)
def test_every_genome_of_the_space_has_a_ratio(
    measure: Measure, names: Sequence[str] | None
) -> None:
    frozen = [SiteId(0, "ffn"), SiteId(1, "attention")]
    table, clock, space = measure(names=names, frozen=frozen)
    alone = [
        space.recipe({**space.exact(), d.name: level})
        for d in space.dimensions
        for level in range(len(d.levels))
    ]
    recipes = [*alone, *random_recipes(space)]
    errors = [table.ratio(recipe) / clock.ratio(recipe) - 1 for recipe in recipes]
    # Least exact below the fewest units that were timed: the last ones take their overhead along.
    assert np.abs(errors).mean() < 0.02
    assert np.abs(errors).max() < 0.1


def test_between_counts_that_were_measured_time_runs_straight(measure: Measure) -> None:
    table, clock, space = measure(names=["ffn_mask"])
    counts = [int(key.partition("ffn=")[2]) for key in table.blocks if "ffn=" in key]
    assert len(counts) == timed_models.MOST_COUNTS
    assert min(counts) == 0
    upper, lower = sorted(counts, reverse=True)[2:4]
    middle = (upper + lower) // 2
    shares = [
        table.block(Recipe.of({SiteId(2, "ffn"): {"ffn": Kept(of=64, kept=tuple(range(n)))}}), site)
        for n in (upper, middle, lower)
        for site in [SiteId(2, "ffn")]
    ]
    assert lower < middle < upper
    assert shares[0] == table.blocks[f"ffn ffn={upper}"]
    part = (middle - lower) / (upper - lower)
    assert shares[1] == pytest.approx(shares[2] + part * (shares[0] - shares[2]))
    errors = [table.ratio(r) / clock.ratio(r) - 1 for r in random_recipes(space)]
    assert np.abs(errors).mean() < 0.01


def of_one_size(space: SearchSpace, layers: int) -> list[Recipe]:
    """The models in which one kind of block has one shape in all layers."""
    return [
        Recipe.of({SiteId(layer, kind): choices for layer in range(layers)})
        for kind in ("attention", "ffn")
        for choices in list(shapes(space, SiteId(0, kind)).values())[1:]
    ]


@pytest.mark.parametrize("names", SPACES, ids=str)
@pytest.mark.parametrize("layers", [1, 2, 6, 12])
def test_shapes_are_told_apart_in_the_fewest_models_too(
    measure: Measure, layers: int, names: Sequence[str] | None
) -> None:
    """A model so slow that no more can be timed than its shapes need."""
    table, clock, space = measure(layers=layers, names=names, seconds=0)
    timed = len(dict.fromkeys(clock.passes)) - 1
    count = sum(len(shapes(space, SiteId(0, kind))) - 1 for kind in ("attention", "ffn"))
    narrowed = 0 if names else 1 + 2 * 2  # exact, and each block with few and no units
    assert timed <= -(-count // layers) + 2 * 2 + narrowed
    for recipe in of_one_size(space, layers):
        assert table.ratio(recipe) == pytest.approx(clock.ratio(recipe), rel=1e-9)
    assert table.error_of_one_size < 1e-9


def test_without_its_only_block_that_can_be_removed_a_layer_takes_no_time(
    measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a layer is not there to be timed."""
    for module in (timed_models, narrowed_layer, latency_table, block_fit):
        own = vars(module)["removal"]
        monkeypatch.setattr(
            module, "removal", lambda kind, own=own: own(kind) if kind == "attention" else None
        )
    table, clock, _ = measure(names=["heads"], seconds=0)
    assert table.blocks["attention heads=0"] == 0
    site = SiteId(1, "attention")
    for kept in (1, 2, 3):
        recipe = Recipe.of({site: {"heads": Kept(of=4, kept=tuple(range(kept)))}})
        assert table.ratio(recipe) == pytest.approx(clock.ratio(recipe), rel=1e-9)


def test_there_may_be_any_time(measure: Measure) -> None:
    table, _, _ = measure(seconds=float("inf"))
    assert table.rounds == FEWEST


def test_a_design_that_does_not_tell_shapes_apart_is_refused() -> None:
    there: Any = {
        "attention": {"attention": {}, "attention heads=2": {"heads": Kept(of=4, kept=(0, 1))}},
        "ffn": {"ffn": {}, "ffn ffn=8": {"ffn": Kept(of=64, kept=tuple(range(8)))}},
    }
    both = {"attention": "attention heads=2", "ffn": "ffn ffn=8"}
    with pytest.raises(AssertionError, match="does not tell shapes apart"):
        fit(there, [both] * 4, np.zeros((3, 4)), np.ones(4), 1.0, {"attention": 1, "ffn": 1})


def test_errors_of_models_of_one_size_are_small_where_there_is_time_for_few(
    measure: Measure,
) -> None:
    errors = []
    for seed in range(5):
        table, clock, space = measure(layers=6, seconds=0, drift=0.02, noise=0.02, seed=seed)
        errors += [table.ratio(r) / clock.ratio(r) - 1 for r in of_one_size(space, 6)]
    assert np.abs(errors).mean() < 0.02


def test_fewer_units_never_take_more_time(measure: Measure) -> None:
    table, _, _ = measure(drift=0.1, noise=0.3, seconds=0)
    for kind, full in (("attention heads=", 4), ("ffn ffn=", 64)):
        counts = {
            int(k.removeprefix(kind)): s for k, s in table.blocks.items() if k.startswith(kind)
        }
        counts[full] = table.blocks[kind.split()[0]]
        times = [counts[count] for count in sorted(counts)]
        assert times == sorted(times)
        assert times[0] < times[-1]


def test_a_busy_machine_leaves_out_what_an_idle_one_does(measure: Measure) -> None:
    """Levels are left out where they are certainly no faster, and on a busy machine little is."""
    still, _, space = measure(layers=6)
    wanted = slower_levels(space, still)
    assert any("topk" in name for name in wanted)  # a k adds to these blocks' time
    kept = 0
    for seed in range(10):
        table, _, space = measure(layers=6, drift=0.1, noise=0.15, seed=seed)
        found = slower_levels(space, table)
        kept += all(set(levels) <= set(wanted.get(name, ())) for name, levels in found.items())
    assert kept >= 9


def test_errors_of_blocks_are_as_large_as_they_are_said_to_be(measure: Measure) -> None:
    still, _, _ = measure(layers=6)
    off = []
    for seed in range(10):
        table, _, _ = measure(layers=6, drift=0.02, noise=0.05, seed=seed)
        for key, error in table.errors.items():
            kind = key.split()[0]
            found = table.blocks[key] - table.blocks[kind]
            off.append((found - (still.blocks[key] - still.blocks[kind])) / error)
    assert 0.5 < float(np.sqrt(np.mean(np.square(off)))) < 1.7


def test_every_shape_is_timed_about_as_often_as_any_other(measure: Measure) -> None:
    _, clock, space = measure(layers=4)
    held_out = 2 * module_under_test.HELD_OUT
    for kind in ("attention", "ffn"):
        site = SiteId(0, kind)
        timed = dict.fromkeys(shapes(space, site), 0)
        # The held-out models are drawn at random.
        for recipe in list(dict.fromkeys(clock.passes))[1:-held_out]:
            for layer in range(4):
                timed[block_key(recipe, SiteId(layer, kind))] += 1
        assert min(timed.values()) >= 2


def test_no_layer_is_gone_in_the_models_that_are_fitted_to(measure: Measure) -> None:
    _, clock, _ = measure(layers=4)
    designs = list(dict.fromkeys(clock.passes))[: -2 * module_under_test.HELD_OUT]
    assert len(designs) > 5
    for recipe in designs:
        for layer in range(4):
            assert not all(recipe.removed(layer, kind) for kind in ("attention", "ffn"))


def test_shapes_begin_with_the_exact_one() -> None:
    space = SearchSpace(
        every_site("bert"), {s.id: range(s.count) for s in every_site("bert")},
        names=["heads", "topk"],
    )  # fmt: skip
    found = shapes(space, SiteId(0, "attention"))
    assert next(iter(found)) == "attention"
    assert found["attention"] == {}
    assert len(found) == 1 + 4 + 4  # each level alone
    assert "attention topk=32.renormalised" in found
    for key, choices in found.items():
        assert (
            block_key(Recipe.of({SiteId(0, "attention"): choices}), SiteId(0, "attention")) == key
        )


def test_a_setting_that_was_not_measured_is_an_error(measure: Measure) -> None:
    table, _, _ = measure(names=["heads", "topk"])
    with pytest.raises(KeyError, match=r"attention topk=5\.hard"):
        table.ratio(Recipe.of({SiteId(1, "attention"): {"topk": Setting(value=5, mode="hard")}}))


def test_json_and_back(measure: Measure) -> None:
    table, _, _ = measure("albert", layers=6, noise=0.01)
    again = LatencyTable.from_dict(json.loads(json.dumps(table.to_dict())))
    assert again == table
    assert again.error > 0


@pytest.mark.parametrize(
    ("passes", "rounds"), [(0, FEWEST), (3.5, 4), (5.5, 6), (1e9, ROUNDS)], ids=str
)
def test_rounds_end_in_time_but_there_are_some(
    measure: Measure, passes: float, rounds: int
) -> None:
    loud = {"names": ["heads"], "noise": 0.5}
    _, clock, _ = measure(**loud)
    # The base and the models once, then in each round every model between two passes of the base.
    models = (len(clock.passes) - 1 - ROUNDS) // (1 + 2 * ROUNDS)
    told: list[tuple[int, int]] = []
    a_round = 2 * models + 1
    table, _, _ = measure(
        **loud,
        seconds=passes * a_round,
        on_round=lambda done, of: told.append((done, of)),
    )
    assert table.rounds == rounds
    assert told == [(number, ROUNDS) for number in range(1, rounds + 1)]


def model_of_some_size() -> PreTrainedModel:
    sizes = {"hidden_size": 128, "intermediate_size": 1024, "num_hidden_layers": 2}
    return random_model("bert", **sizes)


def test_a_real_model(monkeypatch: pytest.MonkeyPatch) -> None:
    # The time of this thread alone: other processes may be at work.
    watch = SimpleNamespace(perf_counter=time.thread_time)
    for module in (module_under_test, axsearch.runtimes.torch):
        monkeypatch.setattr(module, "time", watch)
    base = model_of_some_size()
    sites = Base(base, 24).sites
    dropped = {f"layer0{n}.ffn": range(96, 928, 32) for n in range(2)}
    levels = SearchSpace(
        list(sites.values()), {i: range(s.count) for i, s in sites.items()}
    ).to_dict()
    space = SearchSpace(
        list(sites.values()),
        {i: range(s.count) for i, s in sites.items()},
        names=["heads", "ffn"],
        dropped={
            name: [v for v in levels[name] if v in values] for name, values in dropped.items()
        },
    )
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in base.modules())
    table = measure_latency_table(
        Base(base), space, [short_batch("bert")], Scenario(threads=1), seconds=1
    )
    assert table.rounds >= FEWEST
    assert table.ratio(Recipe.of({})) == pytest.approx(1, abs=1e-12)
    assert 0 < table.rest < 1
    assert table.blocks["ffn"] > table.blocks["ffn ffn=0"]
    assert table.blocks["attention"] > table.blocks["attention heads=0"]
    smallest = space.recipe({name: d.high - 1 for name, d in space.distributions().items()})
    none = space.recipe({name: d.high for name, d in space.distributions().items()})
    assert 1 > table.ratio(smallest) > table.ratio(none)
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in base.modules()) == hooks


LOOKED_UP = LatencyTable(
    rest=0.1,
    blocks={
        "attention": 0.12, "attention heads=2": 0.07, "attention heads=0": 0.02,
        "attention topk=8.renormalised": 0.2,
        "ffn": 0.18, "ffn ffn=48": 0.16, "ffn ffn=32": 0.1, "ffn ffn=0": 0.02,
        "ffn ffn_topk=8.largest": 0.3,
    },
    repeats={0: 1, 1: 2, 2: 1},
)  # fmt: skip


def counted(counts: dict[tuple[int, Any], int]) -> Recipe:
    return Recipe.of(
        {
            SiteId(layer, kind): {
                {"attention": "heads", "ffn": "ffn"}[kind]: Kept(
                    of=4 if kind == "attention" else 64, kept=tuple(range(count))
                )
            }
            for (layer, kind), count in counts.items()
        }
    )


@pytest.mark.parametrize(
    ("kind", "count", "expected"),
    [
        ("attention", 3, (0.12 + 0.07) / 2),
        ("attention", 1, (0.07 + 0.02) / 2),
        ("ffn", 40, (0.16 + 0.1) / 2),
        ("ffn", 36, 0.1 + 0.06 / 4),
        ("ffn", 56, 0.17),
        ("ffn", 8, 0.04),
    ],
)
def test_time_is_on_the_line_between_neighbours(kind: Any, count: int, expected: float) -> None:
    recipe = counted({(1, kind): count})  # a layer that runs twice
    rest = LOOKED_UP.ratio(Recipe.of({})) - 2 * LOOKED_UP.blocks[kind]
    assert LOOKED_UP.ratio(recipe) == pytest.approx(rest + 2 * expected)


def test_a_layer_without_blocks_takes_no_time() -> None:
    recipe = counted({(2, "attention"): 0, (2, "ffn"): 0})
    whole = LOOKED_UP.ratio(Recipe.of({}))
    assert LOOKED_UP.ratio(recipe) == pytest.approx(whole - 0.12 - 0.18)


def test_a_setting_has_its_part_in_every_unit() -> None:
    site, setting = SiteId(0, "attention"), Setting(value=8, mode="renormalised")
    whole = LOOKED_UP.ratio(Recipe.of({}))
    recipe = Recipe.of({site: {"topk": setting}})
    assert LOOKED_UP.ratio(recipe) == pytest.approx(whole + 0.08)
    recipe = Recipe.of({site: {"topk": setting, "heads": Kept(of=4, kept=(0, 1))}})
    assert LOOKED_UP.ratio(recipe) == pytest.approx(whole - 0.05 + 0.04)


def test_what_was_not_measured_is_not_guessed() -> None:
    unknown = Recipe.of({SiteId(0, "attention"): {"topk": Setting(value=16, mode="hard")}})
    with pytest.raises(KeyError, match=r"topk=16\.hard"):
        LOOKED_UP.ratio(unknown)
    smaller = LatencyTable(0.1, {"attention": 0.1, "ffn": 0.2, "ffn ffn=32": 0.1}, {0: 1})
    with pytest.raises(KeyError, match="ffn=16"):
        smaller.ratio(counted({(0, "ffn"): 16}))
    with pytest.raises(KeyError, match="heads=2"):
        smaller.ratio(counted({(0, "attention"): 2}))
