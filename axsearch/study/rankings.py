"""What ``axsearch remeasure`` has ranked of a study, kept with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from axsearch.errors import AxsearchError
from axsearch.space.scenario import Scenario, in_words
from axsearch.store.optuna_internals import STUDY_USER_ATTRS
from axsearch.store.studies import change_attributes
from axsearch.study.study import Study

RANKED = "remeasured for "
"""How the user attribute of a study begins that has a ranking of :func:`keep_ranking`."""


def keep_ranking(
    study: Study, scenario: Scenario, workload: str, machine: str, trials: Sequence[int]
) -> None:
    """Keep which trials are the front in another scenario or on another machine.

    Raises AxsearchError where the study was deleted, or made again, since it was opened.
    """
    name = f"{RANKED}{in_words(scenario)}, on {machine}"
    ranking = {"workload": workload, "machine": machine, "trials": list(trials)}
    if not change_attributes(
        study.database.engine,
        study.id,
        lambda _: {name: ranking},
        identity=study.identity,
        attrs=STUDY_USER_ATTRS,
    ):
        raise AxsearchError(
            f"Study {study.name!r} was deleted or replaced meanwhile; the times are kept for its "
            "models, but there is no study left to rank."
        )


def rankings(study: Study) -> dict[str, dict[str, Any]]:
    """What :func:`keep_ranking` has kept: by scenario and machine, workload, machine and trials."""
    attributes = study.optuna.user_attrs
    return {
        name.removeprefix(RANKED): ranking
        for name, ranking in attributes.items()
        if name.startswith(RANKED)
    }
