"""What is said of a model, against the numbers that it is said from."""

from __future__ import annotations

import re

import pytest

from axsearch import Study, UsageError
from axsearch.calibration.block_times import KINDS
from axsearch.comparison import selection_bias, ties
from axsearch.explanation import cuts_of, explain_trial, export_command, is_removed
from axsearch.measurement import Measurement
from axsearch.recipe import Recipe, SiteId
from axsearch.tables import Tables


def smallest(study: Study) -> Measurement:
    return min(study.measurements, key=lambda m: m.size_bytes)


def test_savings_add_up_to_what_the_model_takes(tiny_study: tuple[str, str]) -> None:
    study = Study.open(*tiny_study)
    tables = Tables(study)
    assert tables.latency is not None
    assert tables.size is not None
    for member in study.measurements:
        cuts = list(cuts_of(study, member, tables))
        recipe = Recipe.from_dict(member.recipe)
        size = 1 - sum(cut.size or 0.0 for cut in cuts)
        left = sum(tables.size.layer(recipe, layer) for layer in range(3))
        assert size == pytest.approx(tables.size.rest + left)
        assert size == pytest.approx(member.size_ratio, abs=0.05)  # but for the file's header
        time = 1 - sum(cut.time or 0.0 for cut in cuts)
        # The rest of the table is at least a thousandth, so its sum need not be 1.
        whole = tables.latency.ratio(Recipe.of({}))
        assert time + whole - 1 == pytest.approx(tables.latency.ratio(recipe), abs=1e-9)


def test_damages_are_those_of_the_levels_alone(tiny_study: tuple[str, str]) -> None:
    study = Study.open(*tiny_study)
    tables = Tables(study)
    member = smallest(study)
    params = study.frozen(member.trial or 0).params
    expected = sum(tables.damage[name][level] for name, level in params.items())
    found = [cut.damage for cut in cuts_of(study, member, tables)]
    assert all(damage is not None for damage in found)
    assert sum(damage or 0.0 for damage in found) == pytest.approx(expected)
    assert expected > 0


def test_there_is_a_cut_for_each_block_that_is_not_whole(tiny_study: tuple[str, str]) -> None:
    study = Study.open(*tiny_study)
    for member in study.measurements:
        recipe, names = Recipe.from_dict(member.recipe), []
        for layer, kept in member.choices.items():
            number = int(layer.removeprefix("layer"))
            blocks = [kind for kind in KINDS if recipe.at(*SiteId(number, kind))]
            names += [layer] if is_removed(kept) else [f"{layer} {kind}" for kind in blocks]
        assert [cut.name for cut in cuts_of(study, member, Tables(study))] == names


def test_the_base_gave_up_nothing(tiny_study: tuple[str, str]) -> None:
    study = Study.open(*tiny_study)
    found = explain_trial(study, study.baseline.trial or 0)
    assert found.cuts == ()
    assert "0 fewer than the base" in found.sentences[0]
    assert not any("gave up" in sentence for sentence in found.sentences)


def test_sentences_say_the_numbers(opened_study: tuple[str, str]) -> None:
    study = Study.open(*opened_study)
    member = study.front()[0]
    found = explain_trial(study, member.trial or 0, ties(study), selection_bias(study))
    text = " ".join(found.sentences)
    base = study.baseline
    assert f"{base.parameters - member.parameters:,} fewer than the base" in text
    heads = sum(
        (base.choices[la]["heads"] or 0) - (c["heads"] or 0) for la, c in member.choices.items()
    )
    assert f"{heads} of 12 heads" in text
    assert member.latency_ratio is not None
    assert f"{member.latency_ratio:.3f} of the base's time" in text
    assert f"is {member.accuracy:.4f} ({member.accuracy_low:.4f} to" in text
    holdout = study.holdout([member])[member.trial or 0]
    assert f"holdout split it has {holdout.value:.4f} ({holdout.low:.4f} to" in text
    assert re.search(r"Of 80 holdout examples it answers \d+ better than the base and \d+", text)
    assert "tied with" in text or "No other model of the front is tied with it" in text
    assert "Selection bias" in text
    time = max(found.cuts, key=lambda cut: cut.time or 0.0)
    assert f"saves most time is {time.name}: {time.time:.1%}" in text
    damage = max(found.cuts, key=lambda cut: cut.damage or 0.0)
    assert f"most damage is {damage.name}: {damage.damage:.4f} nats" in text


def test_before_the_holdout_split_is_opened_nothing_is_said_of_it(
    tiny_study: tuple[str, str],
) -> None:
    study = Study.open(*tiny_study)
    found = explain_trial(study, study.front()[0].trial or 0, ties(study), selection_bias(study))
    assert "holdout" not in " ".join(found.sentences)


def test_a_trial_that_is_not_there(tiny_study: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match="no finished trial 999"):
        explain_trial(Study.open(*tiny_study), 999)


def test_the_export_command_can_be_pasted(tiny_study: tuple[str, str]) -> None:
    study = Study.open(*tiny_study)
    study.name = "it's mine; rm -rf ~"
    assert export_command(study, 3, "sqlite:///a b.db") == (
        "axsearch export --storage 'sqlite:///a b.db' --study 'it'\"'\"'s mine; rm -rf ~' "
        "--trial 3 --format hf --out trial-3"
    )
