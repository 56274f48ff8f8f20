"""What follows trials: the front polished, timed and served, its files, the dashboard's notes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from axsearch.errors import cause
from axsearch.progress import console, progress_bar
from axsearch.running.objective import files_of
from axsearch.space.recipe import Recipe
from axsearch.store.artifacts import attach_later, with_files
from axsearch.store.optuna_internals import id_of_trial
from axsearch.store.outages import is_of_database
from axsearch.study.study import Study
from axsearch.system.machine import machine_name

if TYPE_CHECKING:
    from axsearch.evaluation.evaluator import Evaluator
    from axsearch.statistics.measurement import Measurement


def finish_front(study: Study, evaluator: Evaluator) -> None:
    """Polish the front, and time and evaluate it where it is served, until all of it is.

    Args:
        study: with finished trials; what was read of it is forgotten.
        evaluator: of its task, with its scenario.
    """
    # Not at the top: it imports transformers, as the evaluator does.
    from axsearch.running.polishing import polish_front
    from axsearch.running.serving import serve_front

    done = 1
    while done:
        study.refresh()
        done = polish_front(study, evaluator)
        if study.spec.served:
            done += serve_front(study, evaluator)
        elif study.has_baseline:  # those that were timed already are not timed again
            time_front(evaluator, study.front(), study.spec.machine)
    _attach(study)


def time_front(evaluator: Evaluator, front: Sequence[Measurement], machine: str) -> None:
    """Time the real models of a front, each in turn with the base, where this is the machine."""
    if evaluator.scenario is None or machine != machine_name():
        return
    # Not at the top: it imports transformers, as the evaluator does.
    from axsearch.evaluation.trained import MissingWeightsError

    with progress_bar() as progress:
        for member in progress.track(front, description="Timing the front"):
            try:
                evaluator.latency(Recipe.from_dict(member.recipe))
            except MissingWeightsError as error:  # a search can do without
                console.print(f"Trial {member.trial} is not timed: {error}", style="yellow")


def _attach(study: Study) -> None:
    """Give their files to models that came onto the front after their trials had ended."""
    if not study.has_baseline:
        return
    engine = study.database.engine
    known = with_files(engine, study.id)
    new = {m.trial: m for m in study.front() if m.trial is not None}
    new = {number: m for number, m in new.items() if number not in known}
    attach_later(
        engine,
        {
            id_of_trial(trial): files_of(Recipe.from_dict(new[number].recipe), new[number])
            for number, trial in study.frozen([*new]).items()
        },
    )


def note(study: Study) -> None:
    """Update the notes and figures in the dashboard; what was read of the study is forgotten."""
    study.refresh()
    try:
        # Not at the top: it imports plotly, which no trial needs.
        from axsearch.reporting.dashboard.annotating import annotate

        annotate(study)
    except Exception as error:
        if is_of_database(error):
            raise
        # Work of hours must not end because of figures, which can be drawn later.
        console.print(
            "The notes and figures for the dashboard could not be brought up to date: "
            f"{type(error).__name__}: {cause(error)}.",
            style="yellow",
        )
