"""``axsearch recover``."""

from __future__ import annotations

import json as to_json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from axsearch.cli.options import Json
from axsearch.cli.output import as_json, numbers, ratio, say, stdout
from axsearch.errors import AxsearchError
from axsearch.options import Option
from axsearch.running.request import DataHere, ModelHere, Storage, StudyName
from axsearch.study.comparison import against_base
from axsearch.study.study import Study
from axsearch.training.request import RecoverySettings

if TYPE_CHECKING:
    from axsearch.running.recovered_trials import Recovered


def recover(
    storage: Storage,
    study: StudyName,
    settings: RecoverySettings,
    trial: Annotated[
        int | None, Option("Number of the trial whose model to train further", minimum=0)
    ] = None,
    front: Annotated[bool, Option("Train all models of the front further")] = False,
    candidates: Annotated[
        int | None,
        Option(
            "Train so many models, the front's first, for one pass each, and those that no other "
            "of them beats then for all passes",
            minimum=1,
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        Option(
            "Train models of the front until the fastest is found that is then expected to lose at "
            "most this much on new data"
        ),
    ] = None,
    model: ModelHere = None,
    data: DataHere = None,
    json: Json = False,
) -> None:
    """Train models of a study further, with the base as their teacher.

    A recovered model becomes a trial of its own, which front, pick, explain and export know like
    any other; the model as it was cut stays. Its weights are files: beside a SQLite database
    STUDIES.db in the folder STUDIES.db.weights, or where AXSEARCH_WEIGHTS says, a folder or
    s3://bucket. The labels teach as well; the base itself learns from them alone, as the control.

    Ctrl-C keeps the best model so far; the same command goes on with the training.

    \b
    Examples:
      axsearch recover --storage sqlite:///studies.db --study reviews --trial 12
      axsearch recover --storage sqlite:///studies.db --study reviews --max-drop 0.01
    """
    opened = Study.open(storage, study)
    from axsearch.running.recovering import recover as run

    whom: dict[str, Any] = {
        "trial": trial,
        "front": front,
        "candidates": candidates,
        "max_drop": max_drop,
    }
    try:
        found = run(opened, **whom, **asdict(settings), model=model, data=data)
    except KeyboardInterrupt:
        raise AxsearchError(
            "stopped; recovered models are kept, and the same command goes on from there."
        ) from None
    if json:
        print_json(opened, found)
    else:
        print_recovered(opened, found)


def print_json(study: Study, found: Sequence[Recovered]) -> None:
    """Recovered models as JSON."""
    held = against_base(study, [one.after for one in found], "holdout")
    members = [{**as_json(study, one.after, held), "seconds": one.seconds} for one in found]
    print(to_json.dumps({"study": study.name, "recovered": members}))


def print_recovered(study: Study, found: Sequence[Recovered]) -> None:
    """A table of recovered models."""
    console = stdout()
    if not found:
        say(console, "No model was recovered.")
        return
    models = [one.after for one in found]
    columns = {
        "trial": [str(one.trial) for one in found],
        "from": [str(one.before.trial) for one in found],
        study.spec.metric: [f"{m.accuracy:.4f}" for m in models],
        "as cut": [f"{one.before.accuracy:.4f}" for one in found],
        "latency": [ratio(m.latency_ratio, measured=m.latency_measured) for m in models],
        "size": [ratio(m.size_ratio) for m in models],
    }
    if study.spec.scenario is None:
        del columns["latency"]
    table = numbers(columns, console, title=f"{study.name}: recovered models")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    console.print(table)
    say(
        console,
        f"The base has {study.spec.metric} {study.baseline.accuracy:.4f} on the search split. "
        "Latency and size are relative to it.",
        f"axsearch front --study {shlex.quote(study.name)} shows them among all others.",
    )
