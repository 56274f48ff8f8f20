"""What is said of a model, against the numbers that it is said from."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import pytest
from sqlalchemy import create_engine

from axsearch import Study, UsageError
from axsearch.approximations.choices import Kept, Setting
from axsearch.approximations.site import SiteId
from axsearch.reporting.explanation import (
    Cut,
    _damage_by_block,
    _most,
    cuts_of,
    explain_trial,
    export_command,
    in_markdown,
)
from axsearch.space.recipe import Recipe
from axsearch.statistics.measurement import Measurement
from axsearch.study.comparison import against_base, selection_bias, ties
from axsearch.study.tables import Tables


def cuts_made(study: Study, member: Measurement) -> list[Cut]:
    params = study.frozen([member.trial or 0])[member.trial or 0].params
    return list(cuts_of(study, member, Tables(study), params))


def smallest(study: Study) -> Measurement:
    return min(study.measurements, key=lambda m: m.size_bytes)


def test_savings_add_up_to_what_the_model_takes(tiny_study: tuple[str, str]) -> None:
    study = Study.open(*tiny_study)
    tables = Tables(study)
    assert tables.latency is not None
    assert tables.size is not None
    for member in study.measurements:
        cuts = cuts_made(study, member)
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
    params = study.frozen([member.trial or 0])[member.trial or 0].params
    recipe = Recipe.from_dict(member.recipe)
    left = {
        f"layer{site.layer:02d}.{name}" for site, name, _ in recipe.choices()
    }  # a block that is gone has no k
    expected = sum(tables.damage[name][level] for name, level in params.items() if name in left)
    found = [cut.damage for cut in cuts_made(study, member)]
    assert all(damage is not None for damage in found)
    assert sum(damage or 0.0 for damage in found) == pytest.approx(expected)
    assert expected > 0


class Tabled:
    """A table of damages alone."""

    damage: ClassVar[dict[str, list[float]]] = {
        "layer00.heads": [0.0, 0.1, 0.3],
        "layer00.topk": [0.0, 0.05],
        "layer00.attention_block": [0.0, 0.4],
        "layer00.ffn": [0.0, 0.2],
        "layer01.layer": [0.0, 0.9],
        "layer01.heads": [0.0, 0.1, 0.3],
        "layer02.head_mask.00": [0.0, 0.01],
        "layer02.head_mask.03": [0.0, 0.02],
    }


GONE, HALF = Kept(of=4, kept=()), Kept(of=4, kept=(0, 2))
NO_NEURON = Kept(of=64, kept=())
K8 = Setting(value=8, mode="renormalised")


@pytest.mark.parametrize(
    ("params", "choices", "expected"),
    [
        ({"layer00.heads": 1, "layer00.topk": 1}, {(0, "attention"): {"heads": HALF, "topk": K8}},
         {("layer00", "attention"): 0.15}),
        # a block that is gone has no k
        ({"layer00.heads": 2, "layer00.topk": 1}, {(0, "attention"): {"heads": GONE}},
         {("layer00", "attention"): 0.3}),
        # two that speak of the same heads
        ({"layer00.heads": 1, "layer00.attention_block": 1}, {(0, "attention"): {"heads": GONE}},
         {("layer00", "attention"): 0.4}),
        # the parts of a mask add up
        ({"layer02.head_mask.00": 1, "layer02.head_mask.03": 1},
         {(2, "attention"): {"heads": Kept(of=4, kept=(1, 2))}},
         {("layer02", "attention"): 0.03}),
        ({"layer01.layer": 1, "layer01.heads": 1},
         {(1, "attention"): {"heads": GONE}, (1, "ffn"): {"ffn": NO_NEURON}},
         {("layer01", "layer"): 0.9, ("layer01", "attention"): 0.1}),
        ({"layer00.heads": 0, "layer00.ffn": 0, "other": 1}, {}, {}),
    ],
)  # fmt: skip
def test_of_choices_that_overlap_only_one_counts(
    params: dict[str, int], choices: dict[Any, Any], expected: dict[Any, float]
) -> None:
    recipe = Recipe.of({SiteId(*site): own for site, own in choices.items()})
    assert _damage_by_block(Tabled(), params, recipe) == pytest.approx(expected)  # type: ignore[arg-type]


def test_of_a_layer_that_is_gone_the_greater_damage_counts() -> None:
    assert _most(0.9, [0.1, None]) == 0.9
    assert _most(0.2, [0.1, 0.3]) == pytest.approx(0.4)
    assert _most(None, [0.1, 0.3]) == pytest.approx(0.4)
    assert _most(None, [None, None]) is None


def test_there_is_a_cut_for_each_block_that_is_not_whole(tiny_study: tuple[str, str]) -> None:
    study = Study.open(*tiny_study)
    whole = {"heads": 4, "ffn": 64, "topk": None, "ffn_topk": None}
    for member in study.measurements:
        names = []
        for layer, kept in member.choices.items():
            if layer == "stack":
                names += [layer] if kept["one_token"] else []
                continue
            if layer == "embeddings":
                continue
            lost = {name for name in whole if kept[name] != whole[name]}
            if kept["heads"] == 0 and kept["ffn"] == 0:
                names.append(layer)
                continue
            names += [f"{layer} attention"] if lost & {"heads", "topk"} else []
            names += [f"{layer} ffn"] if lost & {"ffn", "ffn_topk"} else []
        assert [cut.name for cut in cuts_made(study, member)] == names


def test_names_are_text_in_markdown() -> None:
    assert in_markdown("a|b\n# <b>*c*</b>") == "a\\|b \\# &lt;b&gt;\\*c\\*&lt;/b&gt;"
    assert in_markdown("movie-reviews 2.1") == "movie-reviews 2.1"


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
    assert "tied" not in text
    assert "that does not mean that there is none" in text or "from every other model" in text
    expected = study.expected[member.trial or 0]
    held = against_base(study, [member], "holdout")[member.trial or 0]
    mean, low, high = expected.interval
    assert f"corrected for the choice: {mean:z.4f} ({low:z.4f} to {high:z.4f})" in text
    assert f"the holdout split shows a drop of {held.drop.value:z.4f}." in text
    tells = "it differs from the base" if held.differs else "no difference to the base is shown"
    assert f"{-held.drop.low:+.4f}) in accuracy, pair by pair; {tells}." in text
    assert "Selection bias" in text
    time = max(found.cuts, key=lambda cut: cut.time or 0.0)
    assert f"saves the most time is {time.name}: {time.time:.1%}" in text
    damage = max(found.cuts, key=lambda cut: cut.damage or 0.0)
    assert f"the most damage is {damage.name}: {damage.damage:.4f} nats" in text


def test_before_the_holdout_split_is_opened_nothing_is_said_of_it(
    tiny_study: tuple[str, str],
) -> None:
    study = Study.open(*tiny_study)
    found = explain_trial(study, study.front()[0].trial or 0, ties(study), selection_bias(study))
    assert "holdout" not in " ".join(found.sentences)


def test_a_trial_that_is_not_there(tiny_study: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match="no finished trial 999"):
        explain_trial(Study.open(*tiny_study), 999)


def test_the_export_command_can_be_pasted(
    tiny_study: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study.open(*tiny_study)
    study.name = "it's mine; rm -rf ~"
    for url, word in [
        ("sqlite:///a b.db", "'sqlite:///a b.db'"),
        ("postgresql+psycopg://db/x", "postgresql+psycopg://db/x"),
        ("postgresql+psycopg://ann:secret@db/x", '"$AXSEARCH_STORAGE"'),  # it is not printed
    ]:
        monkeypatch.setattr(study.database, "engine", create_engine(url))
        assert export_command(study, 3, study.database.in_command) == (
            f"axsearch export --storage {word} --study 'it'\"'\"'s mine; rm -rf ~' "
            "--trial 3 --format hf --out trial-3"
        )
