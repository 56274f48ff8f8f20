"""Notes and figures that are kept in a study for Optuna Dashboard."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects
from optuna_dashboard._note import get_note_from_system_attrs
from plotly import io

from axsearch import Study
from axsearch.reporting.dashboard.annotating import annotate
from axsearch.reporting.explanation import in_markdown
from axsearch.store.studies import change_attributes
from tests.common_fixtures import copied

IDS = {"axsearch-front", "axsearch-layer-map", "axsearch-hypervolume"}


@pytest.fixture
def study(tiny_study: tuple[str, str], tmp_path: Path) -> Study:
    return Study.open(copied(tiny_study[0], tmp_path), tiny_study[1])


def attributes(study: Study) -> dict[str, object]:
    return study.database.storage.get_study_system_attrs(study.id)


def note(study: Study, trial: int | None = None) -> str:
    number = None if trial is None else study.frozen([trial])[trial]._trial_id
    return str(get_note_from_system_attrs(attributes(study), number)["body"])


def test_the_studys_note_says_what_it_is_about_and_how_to_export(study: Study) -> None:
    said, base = note(study), study.baseline
    assert f"| base | accuracy {base.accuracy:.4f} ({base.accuracy_low:.4f} to" in said
    assert f"| machine | {study.spec.machine} |" in said
    assert f"| model | {in_markdown(study.model_name)}, {base.parameters:,} parameters" in said
    assert f"| task | text-classification, accuracy, on {in_markdown(study.data_name)} |" in said
    assert "| latency | batches of 4, the examples at their own lengths, 1 thread, cpu" in said
    assert "axsearch export --storage URL --study tiny --trial N --format hf" in said
    for member in study.front():
        ratios = f"{member.latency_ratio:.3f} | {member.size_ratio:.3f} |"
        drop = f"{study.expected[member.trial or 0].drop:z.4f}"
        row = rf"\| {member.trial} \| {member.accuracy:.4f}\S* .*\| {drop} \|.*{re.escape(ratios)}"
        assert re.search(row, said)
        assert f"a drop of **{drop}** below the base" in note(study, member.trial)
    assert "The expected drop is the one to count on" in said


def test_the_note_of_each_front_trial_says_what_was_cut(study: Study) -> None:
    for member in study.front():
        said = note(study, member.trial)
        assert f"**{member.accuracy:.4f}** ({member.accuracy_low:.4f} to" in said
        assert (
            f"latency **{member.latency_ratio:.3f}** and size **{member.size_ratio:.3f}**" in said
        )
        assert f"--trial {member.trial} --format hf --out trial-{member.trial}" in said
        for layer, kept in member.choices.items():
            if layer == "stack":
                assert (f"| {layer} |" in said) == bool(kept["one_token"])
                continue
            if layer == "embeddings":
                assert f"| {layer} |" not in said
                continue
            assert re.search(rf"\| {layer} \|.* {kept['ffn']} \|", said)
    others = {t.number for t in study.optuna.trials} - {m.trial for m in study.front()}
    assert any(note(study, number) == "" for number in others)


def test_a_text_that_became_shorter_leaves_nothing_behind(study: Study) -> None:
    engine = study.database.engine
    prefix = "dashboard:plot_data:axsearch-front:"
    change_attributes(engine, study.id, lambda before: {f"{prefix}{n}": "x" for n in range(9)})
    annotate(study)
    assert set(get_plotly_graph_objects(attributes(study))) == IDS
    io.from_json(get_plotly_graph_objects(attributes(study))["axsearch-front"])


def test_three_figures_under_ids_that_stay(study: Study) -> None:
    for _ in range(2):
        figures = get_plotly_graph_objects(attributes(study))
        assert set(figures) == IDS
        drawn = {name: io.from_json(text) for name, text in figures.items()}
        front = drawn["axsearch-front"]
        shown = {int(c[0]) for t in front.data if t.name.startswith("front") for c in t.customdata}
        assert shown == {m.trial for m in study.front()}
        annotate(study)


def test_what_has_not_changed_is_not_written_again(study: Study) -> None:
    annotate(study)
    before = attributes(study)
    annotate(study)
    assert attributes(study) == before  # a note's version grows when it is written
