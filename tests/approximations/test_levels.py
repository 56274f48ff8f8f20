"""The levels of the approximations at the sizes that people's models have."""

from __future__ import annotations

import pytest

from axsearch.approximations import approximations
from axsearch.approximations.choices import Kept, Setting
from axsearch.approximations.site import Axis, Site, SiteId, Units


def site(kind: str, count: int, length: int = 128) -> Site:
    units = Units(count=count, width=1, axes=(), whole=(), output=Axis("o", 1), bias=None)
    return Site(SiteId(0, "ffn" if kind == "ffn" else "attention"), units, 1, length)


def test_heads_of_bert_base() -> None:
    assert approximations()["heads"].levels(site("attention", 12)) == (12, 10, 8, 6, 4, 2, 0)


def test_neurons_of_bert_base() -> None:
    levels = approximations()["ffn"].levels(site("ffn", 3072))
    assert levels == (3072, 2688, 2304, 1920, 1536, 1152, 768, 384, 0)


@pytest.mark.parametrize("neurons", [256, 500, 1000, 1536, 2049])
def test_kept_neurons_are_multiples_of_32(neurons: int) -> None:
    levels = approximations()["ffn"].levels(site("ffn", neurons))
    assert levels[0] == neurons
    assert all(level is not None and level % 32 == 0 for level in levels[1:])


@pytest.mark.parametrize("count", [1, 2, 3, 5, 12, 64])
@pytest.mark.parametrize("name", ["heads", "ffn"])
def test_few_units_have_distinct_levels(name: str, count: int) -> None:
    levels = approximations()[name].levels(site(approximations()[name].kinds[0], count))
    assert (levels[0], levels[-1]) == (count, 0)
    assert len(set(levels)) == len(levels)


@pytest.mark.parametrize(
    ("length", "levels"),
    [(8, (None,)), (9, (None, 8)), (64, (None, 32, 16, 8)), (512, (None, 64, 32, 16, 8))],
)
def test_topk_is_below_the_longest_input(length: int, levels: tuple[int | None, ...]) -> None:
    assert approximations()["topk"].levels(site("attention", 12, length)) == levels


def test_the_least_important_units_go_first() -> None:
    choice = approximations()["heads"].choice(site("attention", 4), 2, (2, 0, 3, 1))
    assert choice == Kept(of=4, kept=(1, 3))


def test_topk_of_a_search_is_renormalised() -> None:
    choice = approximations()["topk"].choice(site("attention", 4), 16, ())
    assert choice == Setting(value=16, mode="renormalised")


@pytest.mark.parametrize("level", [None, -1, 13])
def test_impossible_unit_count_is_refused(level: int | None) -> None:
    with pytest.raises(ValueError, match=r"layer00\.attention keeps 0 to 12 units"):
        approximations()["heads"].choice(site("attention", 12), level, range(12))


@pytest.mark.parametrize(
    ("neurons", "levels"),
    [(3072, (None, 1536, 768, 384, 192)), (8, (None, 4, 2, 1)), (1, (None,))],
)
def test_neurons_that_a_token_uses(neurons: int, levels: tuple[int | None, ...]) -> None:
    assert approximations()["ffn_topk"].levels(site("ffn", neurons)) == levels


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("attention_block", "attention", 12),
        ("ffn_block", "ffn", 3072),
        ("layer", "attention", 12),
        ("layer", "ffn", 3072),
        ("ffn_block", "ffn", 1000),
    ],
)
def test_blocks_and_layers_go_or_stay(name: str, kind: str, count: int) -> None:
    assert approximations()[name].levels(site(kind, count)) == (count, 0)


@pytest.mark.parametrize(
    ("length", "levels"),
    [(30, (None, 16, 8)), (31, (None, 30, 16, 8)), (512, (None, 64, 30, 16, 8))],
)
def test_one_k_of_hard_topk_is_axformers(length: int, levels: tuple[int | None, ...]) -> None:
    assert approximations()["topk_hard"].levels(site("attention", 12, length)) == levels
    choice = approximations()["topk_hard"].choice(site("attention", 4), 16, ())
    assert choice == Setting(value=16, mode="hard")


@pytest.mark.parametrize("count", [1, 2, 5, 12, 16])
def test_each_head_goes_by_itself(count: int) -> None:
    heads = approximations()["head_mask"]
    described = site("attention", count)
    assert heads.parts(described) == count
    for part in range(count):
        assert heads.levels(described, part) == (count, count - 1)
        others = tuple(unit for unit in range(count) if unit != part)
        choice = heads.choice(described, count - 1, tuple(reversed(range(count))), part)
        assert choice == Kept(of=count, kept=others)


@pytest.mark.parametrize(
    ("neurons", "sizes"),
    [
        (3072, [256] * 12),
        (30, [2, 3] * 6),
        (13, [1] * 11 + [2]),
        (12, [1] * 12),
        (5, [1] * 5),
        (1, [1]),
    ],
)
def test_twelve_groups_of_neurons_go_by_themselves(neurons: int, sizes: list[int]) -> None:
    groups = approximations()["ffn_mask"]
    described = site("ffn", neurons)
    assert groups.parts(described) == len(sizes)
    gone = []
    for part, size in enumerate(sizes):
        assert groups.levels(described, part) == (neurons, neurons - size)
        assert groups.choice(described, neurons, (), part) is None
        choice = groups.choice(described, neurons - size, (), part)
        assert isinstance(choice, Kept)
        gone += sorted(set(range(neurons)) - set(choice.kept))
    assert gone == list(range(neurons))  # consecutive, and every neuron once


@pytest.mark.parametrize("level", [None, 0, 10, 13])
def test_another_number_than_a_part_leaves_is_refused(level: int | None) -> None:
    with pytest.raises(ValueError, match=r"head_mask at layer00\.attention keeps 12 or 11 units"):
        approximations()["head_mask"].choice(site("attention", 12), level, range(12), 3)
