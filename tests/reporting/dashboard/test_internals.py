"""Optuna Dashboard's private names: as they were when what uses them was written."""

from __future__ import annotations

from typing import Any

import optuna
import optuna_dashboard
import plotly.graph_objects as go
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects
from optuna_dashboard._note import get_note

from axsearch.reporting.dashboard.internals import figure_attributes, note_attributes
from axsearch.store.optuna_internals import id_of_study, id_of_trial, storage_of
from tests.privates import Expected, changes, trees, used_in

FIGURES, NOTES = "optuna_dashboard._custom_plot_data", "optuna_dashboard._note"
EXPECTED = {
    f"{FIGURES}:SYSTEM_ATTR_PLOT_DATA": Expected("str", "figure_attributes"),
    f"{FIGURES}:split_plot_data": Expected("plot_data_str, key_prefix", "figure_attributes"),
    f"{NOTES}:get_note_from_system_attrs": Expected("system_attrs, trial_id", "note_attributes"),
    f"{NOTES}:note_str_key_prefix": Expected("trial_id", "note_attributes"),
    f"{NOTES}:note_ver_key": Expected("trial_id", "note_attributes"),
    f"{NOTES}:split_body": Expected("note_str, trial_id", "note_attributes"),
}


def test_no_private_name_has_changed() -> None:
    found = changes(EXPECTED, {})
    assert not found, (
        f"Optuna Dashboard {optuna_dashboard.__version__} is not the one that axsearch was written "
        "for. See axsearch/reporting/dashboard/internals.py:\n" + "\n".join(found)
    )


def test_all_that_the_module_uses_is_expected() -> None:
    tree = trees()["reporting/dashboard/internals.py"]
    known = {part for name in EXPECTED for part in name.replace(":", ".").split(".")}
    assert used_in(tree, "optuna_dashboard") <= known


def test_the_dashboard_reads_what_is_written_as_what_it_writes_itself() -> None:
    study = optuna.create_study()
    trial = study.ask()
    storage, study_id = storage_of(study), id_of_study(study)
    figure = go.Figure(go.Scatter(y=list(range(2000))))

    def write(attributes: dict[str, Any]) -> None:
        for key, value in attributes.items():
            storage.set_study_system_attr(study_id, key, value)

    for length in (9000, 3, 0):  # a shorter text leaves nothing of a longer one
        body = "A note. " * length
        for trial_id in (None, id_of_trial(trial)):
            write(note_attributes(storage.get_study_system_attrs(study_id), trial_id, body))
            after = storage.get_study_system_attrs(study_id)
            assert note_attributes(after, trial_id, body) == {}
        assert get_note(study) == get_note(trial) == body
    for data in (figure, go.Figure()):
        before = storage.get_study_system_attrs(study_id)
        write(figure_attributes(before, "axsearch-front", data.to_json()))
        shown = get_plotly_graph_objects(storage.get_study_system_attrs(study_id))
        assert shown == {"axsearch-front": data.to_json()}
