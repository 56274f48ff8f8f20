"""Damage against models that are made and run one by one."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from axsearch.approximations.site import SiteId
from axsearch.calibration.damage import (
    EXAMPLES,
    FEWEST,
    MOST_LEVELS,
    Damage,
    calibration_sample,
    effort,
    measure_damage,
    neighbours,
)
from axsearch.evaluation.accuracy import Predictor
from axsearch.models.base_model import Base
from axsearch.models.weights import shrink
from axsearch.space.genome import SearchSpace
from axsearch.space.recipe import EXACT, Recipe
from axsearch.tasks.kinds import task_kinds
from axsearch.tasks.kinds.labels import Labels
from axsearch.tasks.kinds.question_answering import Question
from axsearch.tasks.kinds.sequences import encode
from axsearch.tasks.split import Split
from axsearch.testing.models import random_model
from axsearch.testing.text import reviews, tiny_bert, tiny_tokenizer

KIND = task_kinds()["text-classification"]
BASE = tiny_bert()
COUNT = 70  # more than a batch


def split(count: int = COUNT) -> Split:
    rows = reviews(count, seed=5)
    inputs = encode(tiny_tokenizer(), [(text,) for text, _ in rows], 48)
    return Split("calibration", inputs, np.array([label for _, label in rows]), pad_id=0)


SPLIT = split()


def space_of(*names: str, frozen: tuple[SiteId, ...] = ()) -> SearchSpace:
    sites = Base(BASE, 18).sites
    orders = {i: np.random.default_rng(3).permutation(s.count).tolist() for i, s in sites.items()}
    return SearchSpace(list(sites.values()), orders, names=names or None, frozen=frozen)


@functools.cache
def logits(recipe: Recipe) -> Tensor:
    """Of a model that shares nothing; examples of one length at a time, unpadded."""
    model = BASE if recipe == EXACT else shrink(BASE, recipe)
    by_length: dict[int, list[int]] = {}
    for row, example in enumerate(SPLIT.inputs):
        by_length.setdefault(len(example["input_ids"]), []).append(row)
    found = torch.empty(COUNT, 2, dtype=torch.float64)
    with torch.inference_mode():
        for rows in by_length.values():
            examples = [SPLIT.inputs[row] for row in rows]
            batch = {key: torch.tensor([e[key] for e in examples]) for key in examples[0]}
            found[rows] = model(**batch).logits.double()
    return found


def divergence(space: SearchSpace, genome: Mapping[str, int]) -> float:
    """Sum of p log (p / q), of models that share nothing."""
    recipe = space.recipe({**space.exact(), **genome})
    p, q = logits(EXACT).softmax(-1), logits(recipe).softmax(-1)
    return float((p * (p / q).log()).sum(-1).mean())


def measured(space: SearchSpace, sample: Split = SPLIT, **more: int) -> Damage:
    return measure_damage(
        Base(BASE), lambda r: shrink(BASE, r), space, lambda _: sample, Predictor(KIND, **more)
    )


@pytest.mark.parametrize("names", [(), ("heads", "layer"), ("head_mask",)], ids=str)
def test_equals_models_that_are_made_one_by_one(names: tuple[str, ...]) -> None:
    space = space_of(*names)
    found = measured(space)
    assert set(found.alone) == set(space.exact())
    for dimension in space.dimensions:
        levels = found.alone[dimension.name]
        assert levels.shape == (len(dimension.levels),)
        assert levels[0] == 0
        for level in range(1, len(levels)):
            expected = divergence(space, {dimension.name: level})
            assert levels[level] == pytest.approx(expected, rel=2e-3, abs=2e-6)
    assert max(levels.max() for levels in found.alone.values()) > 1e-3


def test_of_many_levels_some_are_run_and_those_between_have_roots_between_theirs() -> None:
    space = space_of("heads", "ffn")
    every, told = measured(space), list[int]()
    some = measure_damage(
        Base(BASE), lambda r: shrink(BASE, r), space, lambda _: SPLIT, Predictor(KIND),
        most=3, on_recipe=lambda _, total: told.append(total),
    )  # fmt: skip
    left_out = 0
    for dimension in space.dimensions:
        full, found = every.alone[dimension.name], some.alone[dimension.name]
        count = len(full)
        run = {*range(1, count)} if count <= 4 else {1, count - 2, count - 1}
        assert found[0] == 0
        for level in run:
            assert found[level] == full[level]
        for level in {*range(1, count)} - run:
            left_out += 1
            share = (level - 1) / (count - 3)
            ends = np.sqrt(full[[1, count - 2]])
            root = ends[0] + share * (ends[1] - ends[0])
            assert found[level] == pytest.approx(root**2, rel=1e-6)
    assert left_out > 0
    assert told[0] == len(told) == sum(len(own) - 1 for own in every.alone.values()) - left_out + 5


def test_large_models_are_run_on_less() -> None:
    def of(size: int) -> tuple[int, int | None]:
        shape = {"num_hidden_layers": size // 256, "hidden_size": 256, "num_attention_heads": 2}
        return effort(Base(random_model("bert", **shape, intermediate_size=8)))

    assert of(6 * 384) == of(6 * 768) == (EXAMPLES, None)
    assert of(12 * 768) == (EXAMPLES // 2, MOST_LEVELS)
    assert of(24 * 1024) == (FEWEST, MOST_LEVELS)


def test_neighbours_add_up_as_they_do_together() -> None:
    space = space_of("heads", "ffn")
    found = measured(space)
    names = [f"layer0{n}.{name}" for n in range(3) for name in ("heads", "ffn")]
    assert list(found.together) == [f"{a} {b}" for a, b in pairwise(names)]
    for pair, factor in found.together.items():
        # Half way between exact and most approximate.
        levels = {n: round((len(found.alone[n]) - 1) / 2) for n in pair.split()}
        first, second = (divergence(space, {n: level}) for n, level in levels.items())
        both = divergence(space, levels)
        expected = (both - first - second) / np.sqrt(first * second)
        assert factor == pytest.approx(np.clip(expected, -2, 2), rel=0.02, abs=0.02)
    assert len(set(found.together.values())) > 2


def test_what_runs_from_kept_layers_is_the_very_same() -> None:
    space = space_of("heads", "topk")
    plain, kept = measured(space, memory=0), measured(space, memory=1 << 28)
    assert plain.together == kept.together
    for name, levels in plain.alone.items():
        np.testing.assert_array_equal(levels, kept.alone[name])


def test_json_and_back_and_the_same_again() -> None:
    space = space_of("heads")
    found = measured(space)
    again = Damage.from_dict(json.loads(json.dumps(found.to_dict())))
    other = measured(space)
    for damage in (again, other):
        assert damage.together == found.together
        assert damage.alone.keys() == found.alone.keys()
        for name, levels in found.alone.items():
            np.testing.assert_array_equal(damage.alone[name], levels)


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    space = space_of("heads", frozen=(SiteId(1, "attention"),))
    measure_damage(
        Base(BASE), lambda r: shrink(BASE, r), space, lambda _: SPLIT, Predictor(KIND),
        on_recipe=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    total = 2 * 4 + 1
    assert told == [(number, total) for number in range(1, total + 1)]


class TestNeighbours:
    def names(self, *names: str, frozen: tuple[SiteId, ...] = ()) -> list[str]:
        return [f"{a} {b}" for a, b in neighbours(space_of(*names, frozen=frozen))]

    def test_a_site_is_stood_for_by_its_dimension_of_the_most_levels(self) -> None:
        found = self.names("heads", "layer", "topk")
        assert found[0] == "layer00.heads layer00.layer"
        assert found[1] == "layer00.layer layer01.heads"
        assert len(found) == 5

    def test_whole_layers(self) -> None:
        assert self.names("layer") == ["layer00.layer layer01.layer", "layer01.layer layer02.layer"]

    def test_over_what_is_frozen(self) -> None:
        frozen = (SiteId(1, "attention"), SiteId(1, "ffn"))
        assert "layer00.ffn layer02.heads" in self.names("heads", "ffn", frozen=frozen)

    def test_of_masks_one_part(self) -> None:
        assert self.names("head_mask")[0] == "layer00.head_mask.00 layer01.head_mask.00"


def test_no_damage_no_factor() -> None:
    # A k above all lengths does nothing, and its damage is exactly that.
    short = tuple(n for n, example in enumerate(SPLIT.inputs) if len(example["input_ids"]) <= 8)
    space = space_of("topk")
    assert space.to_dict()["layer00.topk"] == [None, 16, 8]
    found = measured(space, SPLIT.take(np.array(short)))
    for levels in found.alone.values():
        np.testing.assert_allclose(levels, 0, atol=1e-6)
    assert all(np.isfinite(factor) and abs(factor) <= 2 for factor in found.together.values())


class TestSample:
    def test_is_drawn_always_the_same_from_all_over(self) -> None:
        whole = split(600)
        first, second = calibration_sample(whole), calibration_sample(split(600))
        assert len(first) == EXAMPLES
        assert first.fingerprint == second.fingerprint
        places = [whole.inputs.index(example) for example in first.inputs]
        assert min(places) < 60
        assert max(places) > 540
        assert calibration_sample(whole, 9).fingerprint != calibration_sample(whole, 8).fingerprint

    def test_all_where_there_are_few(self) -> None:
        assert calibration_sample(SPLIT).fingerprint == SPLIT.fingerprint

    def test_windows_of_a_question_stay_together(self) -> None:
        words = [f"word{n % 40}" for n in range(100)]
        questions = [
            Question(f"word{n}", " ".join(words[: 10 + 9 * n]), ((words[0], 0),)) for n in range(9)
        ]
        kind = task_kinds()["question-answering"]
        windows = kind.split("calibration", questions, tiny_tokenizer(), 24, Labels((), {}))
        assert len(windows) > len(questions)
        sample = calibration_sample(windows, 4)
        owners: NDArray[np.int64] = sample.owners
        assert set(owners) == {0, 1, 2, 3}
        every = [sum(windows.owners == number) for number in range(9)]
        chosen = [questions.index(question) for question in sample.questions]
        assert [sum(owners == number) for number in range(4)] == [every[n] for n in chosen]
        assert sum(every[n] for n in chosen) == len(sample) > 4
