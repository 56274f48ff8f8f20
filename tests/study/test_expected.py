"""What a study says of the drops to expect, from what its database holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text

from axsearch import Study, UsageError
from axsearch.space.recipe import EXACT, Recipe
from axsearch.statistics.divergence import divergence_with_error
from axsearch.statistics.expectation import Expected, expected_drops
from axsearch.study.choosing import choose
from axsearch.study.settings import Limits
from tests.common_fixtures import copied


def changed(study: tuple[str, str], folder: Path, statement: str) -> Study:
    """A copy of a study whose database was changed."""
    opened = Study.open(copied(study[0], folder), study[1])
    with opened.database.engine.begin() as connection:
        connection.execute(text(statement))
    return opened


def test_it_is_that_of_all_models_of_the_study(tiny_study: tuple[str, str]) -> None:
    study = Study.open(*tiny_study)
    recipes = {
        m.trial: Recipe.from_dict(m.recipe)
        for m in study.measurements
        if m.recipe != study.baseline.recipe
    }
    known = study.outcomes([EXACT, *recipes.values()])
    base = known.pop(EXACT.hash)
    assert base.losses is not None
    hashes = sorted(known)
    divergences = []
    for one in hashes:
        losses = known[one].losses
        assert losses is not None
        divergences.append(divergence_with_error(losses, base.losses))
    found = expected_drops([known[one].outcome for one in hashes], base.outcome, divergences)
    by_recipe = dict(zip(hashes, found, strict=True))
    assert {*study.expected} == {study.baseline.trial, *(m.trial for m in study.front())}
    for member in study.measurements:
        assert member.trial is not None
        if member.trial == study.baseline.trial:
            assert study.expected[member.trial] == Expected(0.0, 0.0, 0.0, 80)
            continue
        own = study.expectation(member)
        assert own is not None
        assert own.drop == pytest.approx(by_recipe[recipes[member.trial].hash].drop)
        if member.trial in study.expected:
            assert own is study.expected[member.trial]


def test_pick_is_by_it(tiny_study: tuple[str, str]) -> None:
    study = Study.open(*tiny_study)
    for limit in sorted(study.expected[m.trial or 0].drop for m in study.front()):
        chosen = study.pick(max_drop=limit, by="size")
        allowed = [m for m in study.front() if study.expected[m.trial or 0].drop <= limit]
        assert chosen.size_bytes == min(m.size_bytes for m in allowed)
        sure = [
            m
            for m in allowed
            if study.expected[m.trial or 0].probability(limit) >= 0.7
            and m.recipe != study.baseline.recipe
        ]
        if sure:
            picked = study.pick(max_drop=limit, confidence=0.7, by="size")
            assert picked.size_bytes == min(m.size_bytes for m in sure)
        else:
            with pytest.raises(UsageError, match=r"search split are too few|is expected to keep"):
                study.pick(max_drop=limit, confidence=0.7, by="size")


def test_long_studies_take_a_part_of_their_models(
    tiny_study: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []

    def counted(outcomes: list[object], *rest: object) -> list[Expected]:
        taken.append(len(outcomes))
        return expected_drops(outcomes, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("axsearch.study.expecting.expected_drops", counted)
    study = Study.open(*tiny_study)
    assert len(study.expected) >= 2
    monkeypatch.setattr("axsearch.study.expecting.OTHERS", 2)
    study.refresh()
    assert len(study.expected) >= 2
    members = sum(m.recipe != study.baseline.recipe for m in study.front())
    every = len(study.measurements) - 1
    assert taken == [every, taken[1]]
    assert members <= taken[1] <= min(members + 2, every - 1)


@pytest.mark.parametrize(
    "statement", ["DELETE FROM ax_evaluations", "UPDATE ax_evaluations SET losses = NULL"]
)
def test_a_study_that_did_not_store_enough(
    tiny_study: tuple[str, str], tmp_path: Path, statement: str
) -> None:
    study = changed(tiny_study, tmp_path, statement)
    assert study.expected == {}
    assert study.expectation(study.front()[0]) is None
    limits = Limits(max_drop=0.05)
    assert study.pick(max_drop=0.05, by="size") == choose(
        study.front(), study.baseline, limits, {}, by="size"
    )
    with pytest.raises(UsageError, match="An older axsearch made this study"):
        study.pick(max_drop=0.05, confidence=0.9, by="size")


def test_the_knee_has_no_confidence(tiny_study: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match="without limits, `confidence` and `by`"):
        Study.open(*tiny_study).pick(knee=True, confidence=0.9)
