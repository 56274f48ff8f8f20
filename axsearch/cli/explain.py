"""``axsearch explain``."""

from __future__ import annotations

import json as to_json

from rich.table import Table

from axsearch.cli.options import Json, Trial
from axsearch.cli.output import say, stdout
from axsearch.reporting.explanation import Explanation, explain_trial, export_command
from axsearch.running.request import Storage, StudyName
from axsearch.study.comparison import selection_bias, ties
from axsearch.study.study import Study


def explain(
    storage: Storage,
    study: StudyName,
    trial: Trial,
    json: Json = False,
) -> None:
    """Explain a trial's model: what was removed, what each cut was worth, which models tie with it.

    Damage is the mean KL divergence from the base's outputs that a cut alone causes, on calibration
    examples.

    \b
    Example:
      axsearch explain --storage sqlite:///studies.db --study reviews --trial 12
    """
    opened = Study.open(storage, study)
    opened.trial(trial)  # before what takes longer
    found = explain_trial(opened, trial, ties(opened), selection_bias(opened))
    if json:
        print(to_json.dumps(found.to_dict()))
    else:
        print_explanation(opened, found)


def print_explanation(study: Study, found: Explanation) -> None:
    """Print sentences, a table of the cuts, and the command that exports the model."""
    console = stdout()
    say(console, *found.sentences)
    if found.cuts:
        table = Table()
        for heading in found.headings:
            table.add_column(heading, justify="left" if heading in ("cut", "kept") else "right")
        for row in found.rows:
            table.add_row(*row)
        console.print(table)
    assert found.member.trial is not None
    say(console, export_command(study, found.member.trial, study.database.in_command))
