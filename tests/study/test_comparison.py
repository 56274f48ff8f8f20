"""Ties and selection bias of a study, from what its database holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sqlalchemy.orm import Session

from axsearch import Study
from axsearch.space.recipe import Recipe
from axsearch.statistics.inference import holm, paired_p_values
from axsearch.statistics.metrics import value
from axsearch.statistics.outcome import Outcome
from axsearch.store.models import EvaluationRow
from axsearch.study.comparison import Ties, against_base, selection_bias, ties
from tests.common_fixtures import copied


def edited(study: tuple[str, str], folder: Path, answers: dict[int, float], split: str) -> Study:
    """A copy in which trials answer these shares of a split's examples rightly, nested."""
    opened = Study.open(copied(study[0], folder), study[1])
    members = {m.trial: Recipe.from_dict(m.recipe) for m in (opened.baseline, *opened.front())}
    with Session(opened.database.engine) as session:
        for trial, share in answers.items():
            rows = session.query(EvaluationRow).filter_by(
                recipe=members[trial].hash, split_name=split
            )
            for row in rows:
                right = np.arange(row.examples) < share * row.examples
                row.outcome = Outcome("mean", right).packed()
        session.commit()
    opened.refresh()
    return opened


def trials(study: Study) -> list[int]:
    front = [m for m in study.front() if m.recipe != study.baseline.recipe]
    return [m.trial or 0 for m in (study.baseline, *front)]


def test_pairs_that_holms_correction_leaves_are_tied(tiny_study: tuple[str, str]) -> None:
    study = Study.open(*tiny_study)
    found = ties(study)
    assert found is not None
    assert (found.split, found.examples, found.exact) == ("search", 80, True)
    members = [m for m in study.front() if m.recipe != study.baseline.recipe]
    recipes = {m.trial: Recipe.from_dict(m.recipe) for m in members}
    known = study.outcomes(list(recipes.values()))
    numbers = sorted(recipes)
    assert {*found.tied} == {*numbers} == {*found.against_base}  # the base has no letter
    p_values = paired_p_values([known[recipes[number].hash].outcome for number in numbers])
    assert found.comparisons == len(numbers) * (len(numbers) - 1) // 2
    above = np.triu_indices(len(numbers), 1)
    adjusted = dict(zip(zip(*above, strict=True), holm(p_values[above]), strict=True))
    for (i, j), p_value in adjusted.items():
        first, second = numbers[i], numbers[j]
        assert (second in found.tied[first]) == (p_value >= 0.05)
        assert (first in found.tied[second]) == (p_value >= 0.05)
        together = {*found.letters[first]} & {*found.letters[second]}
        assert bool(together) == (p_value >= 0.05)


def test_a_difference_beyond_chance_is_no_tie(tiny_study: tuple[str, str], tmp_path: Path) -> None:
    base, *members = trials(Study.open(*tiny_study))
    answers = dict.fromkeys([base, *members], 0.95)
    answers[members[0]] = 0.55  # of 80 examples, 32 that the others alone answer rightly
    found = ties(edited(tiny_study, tmp_path, answers, "search"))
    assert found is not None
    assert found.tied[members[0]] == ()
    assert found.letters[members[0]] == ""
    assert {*found.groups[0]} == {*members} - {members[0]}
    assert found.against_base[members[0]].differs
    assert found.as_base == [t for t in found.against_base if t != members[0]]
    assert "share a letter McNemar's exact test on the 80 examples of the search" in found.words
    assert "by which they were chosen, too, shows no difference at 5%" in found.words
    assert f"corrected for {len(members) * (len(members) - 1) // 2} comparisons" in found.words
    assert "that does not mean that there is none" in found.words
    assert f"1 of {len(members)} models differ from the base (*)" in found.words


def test_what_the_test_of_one_model_tells_apart_is_never_tied_with_the_base(
    tiny_study: tuple[str, str], tmp_path: Path
) -> None:
    """Holm's correction over all pairs hides a difference to the base: 8 to 0, p = 0.008."""
    base, *members = trials(Study.open(*tiny_study))
    answers = dict.fromkeys([base, *members], 0.9)
    answers |= {members[0]: 0.8, members[1]: 0.85}
    study = edited(tiny_study, tmp_path, answers, "search")
    found = ties(study)
    assert found is not None
    assert members[0] in found.tied[members[1]]  # with the correction, they are not told apart
    one = found.against_base[members[0]]
    assert (one.split, one.examples, one.better, one.worse) == ("search", 80, 0, 8)
    assert one.differs
    assert one.drop.value == pytest.approx(0.1)
    assert 0 < one.drop.low < 0.1 < one.drop.high
    # 4 to 0 has p = 0.125, yet its interval leaves out 0: it is not called the same.
    assert found.against_base[members[1]].drop.low > 0
    assert found.against_base[members[1]].differs
    assert found.as_base == [t for t in found.against_base if t not in members[:2]]


def test_a_model_whose_holdout_was_opened_is_compared_there(
    tiny_study: tuple[str, str], opened_study: tuple[str, str], tmp_path: Path
) -> None:
    base, member, *_ = trials(Study.open(*opened_study))
    study = edited(opened_study, tmp_path, {base: 0.9, member: 0.7}, "holdout")
    found = ties(study)
    assert found is not None
    assert found.against_base[member].split == "holdout"
    assert found.against_base[member].differs
    before = against_base(study, [study.trial(member)], "search")[member]
    assert before.split == "search"
    assert before.drop.value == pytest.approx(
        study.baseline.accuracy - study.trial(member).accuracy
    )
    closed = Study.open(*tiny_study)
    assert against_base(closed, closed.front(), "holdout") == {}


def test_holdout_outcomes_are_taken_where_all_have_them(
    opened_study: tuple[str, str], tmp_path: Path
) -> None:
    study = Study.open(*opened_study)
    found = ties(study)
    assert found is not None
    assert found.split == "holdout"
    with Session(study.database.engine) as session:
        best = max(
            session.query(EvaluationRow).filter_by(split_name="holdout"), key=lambda r: r.value
        )
    first = found.groups[0][0]
    own = study.outcomes([Recipe.from_dict(study.trial(first).recipe)], "holdout")
    assert next(iter(own.values())).value == best.value  # the most accurate group comes first


def test_the_bias_is_what_is_lost_against_the_base(
    opened_study: tuple[str, str], tmp_path: Path
) -> None:
    numbers = trials(Study.open(*opened_study))
    search = edited(opened_study, tmp_path, dict.fromkeys(numbers, 0.9), "search")
    url = str(search.database.engine.url)
    lost = edited((url, search.name), _folder(tmp_path), dict.fromkeys(numbers[1:], 0.8), "holdout")
    base = Recipe.from_dict(lost.baseline.recipe)
    then = value(lost.outcomes([base], "holdout")[base.hash].outcome)
    found = selection_bias(lost)
    assert found is not None
    assert {*found.members} == {*numbers[1:]}
    for one in (*found.members.values(), found.mean):
        assert one.value == pytest.approx((0.9 - 0.9) - (0.8 - then))
        assert one.low <= one.value <= one.high
    assert f"{found.mean.value:+.4f}" in found.words
    assert f"mean of {len(numbers) - 1} models" in found.words


def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "again"
    folder.mkdir()
    return folder


def test_without_the_holdout_split_there_is_no_bias(tiny_study: tuple[str, str]) -> None:
    assert selection_bias(Study.open(*tiny_study)) is None


def test_one_model_is_compared_with_nothing(tiny_study: tuple[str, str]) -> None:
    study = Study.open(*tiny_study)
    assert ties(study, [study.baseline]) is None
    assert selection_bias(study, [study.baseline]) is None


def test_outcomes_that_an_older_version_did_not_keep(
    tiny_study: tuple[str, str], tmp_path: Path
) -> None:
    study = edited(tiny_study, tmp_path, {}, "search")
    with Session(study.database.engine) as session:
        session.query(EvaluationRow).delete()
        session.commit()
    assert ties(study) is None


def test_words_where_all_differ() -> None:
    none = Ties("search", 500, False, 3, {0: (), 1: (), 2: ()}, (), {})
    assert none.words.startswith("No models share a letter: a test on the paired bootstrap on the")
    assert "tells all of them apart at 5%" in none.words
    assert set(none.letters.values()) == {""}
