"""Which models of a study are recovered, and in which order."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import axsearch.running.recovering as recovering
from axsearch import Recipe, Study, UsageError, recover, search
from axsearch.running.recovered_trials import Recovered
from axsearch.running.recovery_order import candidates_of, each, halved, is_plain, raced
from axsearch.statistics.expectation import expected_drops
from axsearch.statistics.measurement import Measurement
from axsearch.store.trained_weights import weights_store
from axsearch.testing.text import reviews, write_csv
from axsearch.training.recovery import NotFiniteError
from axsearch.training.request import RecoverySettings
from tests.common_fixtures import copied

NAME = "order"
SETTINGS = RecoverySettings(epochs=2, learning_rate=2e-3)


def asked(url: str, trials: int = 12) -> dict[str, Any]:
    return {
        "storage": url, "study": NAME, "trials": trials, "objectives": ("accuracy", "size"),
        "approximations": ("heads", "ffn", "layer"), "compensation": "none", "sampler": "random",
    }  # fmt: skip


@pytest.fixture(scope="module")
def searched(base_dir: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a study of twelve trials."""
    url = f"sqlite:///{tmp_path_factory.mktemp('order') / 'studies.db'}"
    search(str(base_dir), str(data_dir), **asked(url)).database.close()
    return url


@pytest.fixture
def study(searched: str, tmp_path: Path) -> Study:
    return Study.open(copied(searched, tmp_path), NAME)


def losses(one: Measurement) -> tuple[float, ...]:
    return -one.accuracy, one.size_ratio


def beats(one: Measurement, other: Measurement) -> bool:
    pairs = list(zip(losses(one), losses(other), strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def hashes(study: Study) -> set[str]:
    return {Recipe.from_dict(m.recipe).hash for m in study.measurements}


def lossy(study: Study) -> list[Measurement]:
    return [m for m in study.measurements if not is_plain(Recipe.from_dict(m.recipe))]


def test_candidates_are_the_fronts_and_then_those_that_would_be(study: Study) -> None:
    every = lossy(study)
    assert len(every) >= 9
    first = [m for m in every if not any(beats(other, m) for other in every)]
    left = [m for m in every if m not in first]
    second = [m for m in left if not any(beats(other, m) for other in left)]
    assert second  # or this shows little
    for count in range(1, len(every) + 3):
        found = candidates_of(study, count)
        assert len(found) == len({m.trial for m in found}) == min(count, len(every))
        assert found == sorted(found, key=lambda m: m.size_bytes)
        if count <= len(first):
            assert all(one in first for one in found)
        elif count <= len(first) + len(second):
            assert all(one in found for one in first)
            assert all(one in second for one in found if one not in first)
    # They lie evenly: not the fastest ones alone.
    ends = candidates_of(study, 2)
    in_order = sorted(first, key=lambda m: m.size_bytes)
    places = [in_order.index(one) for one in ends]
    assert places == [len(in_order) // 4, 3 * len(in_order) // 4]


def test_a_limit_of_the_drop_leaves_candidates_that_training_may_bring_within_it(
    study: Study,
) -> None:
    every = candidates_of(study, 99)
    study.spec = study.spec.model_copy(update={"max_drop": 0.0})
    assert candidates_of(study, 99) == every
    small = sorted(m.size_ratio for m in every)[3]
    study.spec = study.spec.model_copy(update={"max_size_ratio": small})
    assert [m for m in every if m.size_ratio <= small] == candidates_of(study, 99)


def test_all_are_trained_for_one_pass_and_those_that_no_other_beats_further(study: Study) -> None:
    wanted = candidates_of(study, 5)
    found = recover(study, candidates=5, epochs=2, learning_rate=2e-3)
    store = weights_store(study.database.engine)
    made = [store.made(one.after.recipe["recovery"]) or {} for one in found]
    short = [one for one, own in zip(found, made, strict=True) if own["epochs"] == 1]
    long = [one for one, own in zip(found, made, strict=True) if own["epochs"] == 2]
    assert found == [*short, *long]
    assert [one.before.trial for one in short] == [m.trial for m in wanted]
    after = [study.baseline, *(one.after for one in short)]
    best = {o.before.trial for o in short if not any(beats(m, o.after) for m in after)}
    assert {one.before.trial for one in long} == best
    # What is expected of them follows from all that were trained, not from the lucky ones alone.
    taken: list[list[bool]] = []

    def seen(outcomes: Any, base: Any, divergence: Any, trained: list[bool]) -> Any:
        taken.append(trained)
        return expected_drops(outcomes, base, divergence, trained)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("axsearch.study.expecting.expected_drops", seen)
        study.refresh()
        _ = study.expected
    assert sum(taken[0]) == len(found)
    again = recover(study, candidates=5, epochs=2, learning_rate=2e-3)
    assert [one.trial for one in again] == [one.trial for one in found]


def fake(rate: float, asked: list[tuple[int | None, RecoverySettings]], *bad: int | None) -> Any:
    """A training that changes nothing; the numbers of the models of some trials overflow."""

    def train(
        one: Measurement, settings: RecoverySettings, *, wait: bool = True
    ) -> list[Recovered]:
        asked.append((one.trial, settings))
        if one.trial in bad:
            raise NotFiniteError("overflow")
        assert one.trial is not None
        return [Recovered(one.trial, one, one, 1.0, rate)]

    return train


def test_one_learning_rate_is_chosen_for_all(study: Study) -> None:
    asked: list[tuple[int | None, RecoverySettings]] = []
    models = candidates_of(study, 99)
    settings = RecoverySettings(epochs=4, soup=3)
    last = models[-1].trial
    list(raced(study, fake(3e-4, asked, last), models, settings))
    assert asked[0] == (models[len(models) // 2].trial, RecoverySettings(epochs=1))
    short = RecoverySettings(epochs=1, learning_rate=3e-4)
    long = RecoverySettings(epochs=4, soup=3, learning_rate=3e-4)
    assert [settings for _, settings in asked[1 : len(models)]] == [short] * (len(models) - 1)
    rest = asked[len(models) :]
    assert rest
    assert all(settings == long for _, settings in rest)
    assert last not in [number for number, _ in rest]
    # With one pass there is one round.
    del asked[:]
    list(raced(study, fake(3e-4, asked), models, RecoverySettings(epochs=1, soup=2)))
    assert len(asked) == len(models)
    assert {settings.soup for _, settings in asked} == {2}


def test_a_model_whose_numbers_overflow_is_left_out_wherever_it_stands(study: Study) -> None:
    asked: list[tuple[int | None, RecoverySettings]] = []
    models = candidates_of(study, 5)
    settings = RecoverySettings(epochs=4)
    middle, next_one = models[2].trial, models[3].trial
    list(raced(study, fake(3e-4, asked, middle), models, settings))
    assert [number for number, _ in asked[:2]] == [middle, next_one]
    assert asked[1][1].learning_rate is None  # which is chosen for it
    assert {own.learning_rate for _, own in asked[2:]} == {3e-4}
    assert {number for number, _ in asked[:5]} == {m.trial for m in models}
    for count in (1, 2, 5):
        trials = [m.trial for m in models[:count]]
        assert list(raced(study, fake(3e-4, asked, *trials), models[:count], settings)) == []
    given = replace(settings, learning_rate=1e-4)
    assert list(raced(study, fake(3e-4, asked, middle), [models[2]], given)) == []
    assert list(halved(study, fake(3e-4, asked, *trials), models, settings, 0.1)) == []
    with pytest.raises(NotFiniteError):
        list(each(fake(3e-4, asked, middle), [models[2]], given, alone=True))


def test_a_search_that_is_stopped_while_it_recovers_goes_on_there(
    base_dir: Path, data_dir: Path, searched: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovering, "CANDIDATES", 3)
    monkeypatch.setattr(recovering, "RecoverySettings", lambda: SETTINGS)
    whole = search(str(base_dir), str(data_dir), **asked(copied(searched, tmp_path)), recover=True)
    added, add_recovered = 0, recovering.add_recovered

    def stopping(*given: Any) -> Recovered:
        nonlocal added
        found, added = add_recovered(*given), added + 1
        if added == stop:
            os.kill(os.getpid(), signal.SIGINT)
        return found

    for stop in (1, 3, 4):
        folder = tmp_path / str(stop)
        folder.mkdir()
        url, added = copied(searched, folder), 0
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(recovering, "add_recovered", stopping)
            with pytest.raises(KeyboardInterrupt):
                search(str(base_dir), str(data_dir), **asked(url), recover=True)
        assert len(Study.open(url, NAME).measurements) == 12 + stop
        study = search(str(base_dir), str(data_dir), **asked(url), recover=True)
        assert hashes(study) == hashes(whole)


def test_a_search_ends_with_recovered_models(
    base_dir: Path, data_dir: Path, searched: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovering, "CANDIDATES", 2)
    url = copied(searched, tmp_path)
    study = search(str(base_dir), str(data_dir), **asked(url), recover=True)
    own = [m for m in study.measurements if m.recovered_from is not None]
    assert {m.recovered_from for m in own} == {m.trial for m in candidates_of(study, 2)}
    assert len(study.measurements) == 12 + len(own)
    # What was trained is not trained again, and more trials go on as in any search.
    monkeypatch.setattr(recovering, "train_model", None)
    again = search(str(base_dir), str(data_dir), **asked(url), recover=True)
    assert [m.trial for m in again.measurements] == [m.trial for m in study.measurements]
    more = search(str(base_dir), str(data_dir), **asked(url, 13))
    assert len(more.measurements) == len(study.measurements) + 1


def test_what_could_not_be_recovered_is_said_before_the_search(
    base_dir: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise UsageError("Set AXSEARCH_WEIGHTS.")

    for name in ("problem_of", "check_base", "scenario_of", "measure_baselines"):
        monkeypatch.setattr(f"axsearch.running.search.{name}", None)  # nothing is measured
    url = f"sqlite:///{tmp_path / 'new.db'}"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(recovering, "weights_store", refuse)
        with pytest.raises(UsageError, match="AXSEARCH_WEIGHTS"):
            search(str(base_dir), str(data_dir), **asked(url), recover=True)
    for split in ("train", "validation", "test"):
        write_csv(tmp_path / f"{split}.csv", list(reviews(40, 0)), ("text", "label"))
    with pytest.raises(UsageError, match="too few to train on"):
        search(str(base_dir), str(tmp_path), **asked(url), recover=True)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"candidates": 0}, "`candidates` must be at least 1, not 0"),
        ({"candidates": 3, "front": True}, "one of `trial`, `front`, `candidates` and `max_drop`"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    study: Study, given: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        recover(study, **given)
