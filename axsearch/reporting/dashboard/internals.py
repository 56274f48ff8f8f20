"""Optuna Dashboard's private names: every one that axsearch uses.

Its public functions write one attribute after the other, each in a transaction of its own, so that
two workers can leave a mixture of two texts. Here are the attributes that they would write; its
page reads them. ``tests/reporting/dashboard/test_internals.py`` says which of these names
a new Optuna Dashboard has changed. Importing this module loads the dashboard's web app.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna_dashboard._custom_plot_data import SYSTEM_ATTR_PLOT_DATA, split_plot_data
from optuna_dashboard._note import (
    get_note_from_system_attrs,
    note_str_key_prefix,
    note_ver_key,
    split_body,
)


def note_attributes(before: Mapping[str, Any], trial_id: int | None, body: str) -> dict[str, Any]:
    """The attributes to set for a note on a trial, or on the study if None; none if it is there.

    Args:
        before: the study's system attributes.
        trial_id: of the trial.
        body: the note, in Markdown.
    """
    known = get_note_from_system_attrs(before, trial_id)
    if known["body"] == body:
        return {}
    parts = _whole(before, note_str_key_prefix(trial_id), split_body(body, trial_id))
    return {note_ver_key(trial_id): known["version"] + 1, **parts}


def figure_attributes(before: Mapping[str, Any], name: str, figure: str) -> dict[str, str]:
    """The attributes to set for a figure of a study.

    Args:
        before: the study's system attributes.
        name: of the figure, a valid id in HTML.
        figure: plotly's JSON of it.
    """
    prefix = f"{SYSTEM_ATTR_PLOT_DATA}{name}:"
    return _whole(before, prefix, split_plot_data(figure, prefix))


def _whole(before: Mapping[str, Any], prefix: str, parts: Mapping[str, str]) -> dict[str, str]:
    """The parts of a text; parts that only a longer, earlier one had are set to nothing."""
    return {**{key: "" for key in before if key.startswith(prefix)}, **parts}
