"""The learning rate of a recovery, chosen by a few short runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace

from transformers import PreTrainedModel

from axsearch.training.finetuning import LEARNING_RATE
from axsearch.training.lesson import Lesson
from axsearch.training.recovery import (
    SMALLER,
    NotFiniteError,
    Pupil,
    Run,
    Trained,
    planned_steps,
    train,
)

RATES = (1e-4, 2e-4, 4e-4)
SHORT = 100
"""The learning rates that are tried where none is given, and for how many steps."""

ADAPTERS = 5.0
"""How many times these are the rates of adapters, whose products begin as zeros."""

TRIED = "rates.json"
"""The file in a run's folder that says what each rate has led to."""


def recover(
    make: Callable[[], PreTrainedModel], lesson: Lesson, pupil: Pupil, run: Run, device: str
) -> Trained:
    """Train a smaller model, with the learning rate that is best for it if none is given.

    Args:
        make: makes the model, with refitted weights, each time as one of its own.
        lesson: see :func:`train`, as for all else.
        pupil: see there.
        run: see there; the steps of short runs are told as a part of it.
        device: see there.

    Raises:
        UsageError: too little memory.
        NotFiniteError: the loss is not finite.
        KeyboardInterrupt: the run was stopped before it had begun to train.
    """
    if run.rate is None and pupil.plain:
        run = replace(run, rate=LEARNING_RATE * _factor(run))
    if run.rate is not None:
        return train(make(), lesson, pupil, run, device)
    features, told = len(lesson.train), run.told
    before = len(RATES) * planned_steps(replace(run, most=SHORT), features)
    planned = before + planned_steps(run, features)
    run = replace(run, told=lambda done, _: told(done, planned))
    rate = choose_rate(make, lesson, pupil, run, device)
    run = replace(run, rate=rate, told=_after(before, run.told))
    return train(make(), lesson, pupil, run, device)


def choose_rate(
    make: Callable[[], PreTrainedModel], lesson: Lesson, pupil: Pupil, run: Run, device: str
) -> float:
    """The rate with which a short run has the smallest loss on the held part.

    Those of :data:`RATES` are tried, of adapters as many times higher as :data:`ADAPTERS` says.
    Each has its own decay, so that a high rate is not judged in the midst of its way. What a rate
    has led to is kept in the run's folder. Raises KeyboardInterrupt where the run is stopped, and
    NotFiniteError where all of them lead to numbers that are not finite.
    """
    kept, told = run.folder / TRIED, run.told
    found: dict[str, float | None] = json.loads(kept.read_text()) if kept.is_file() else {}
    rates = [rate * _factor(run) for rate in RATES]
    for number, rate in enumerate(rates):
        if str(rate) in found:
            continue
        folder = run.folder / f"rate-{rate:g}"
        before = number * planned_steps(replace(run, most=SHORT), len(lesson.train))
        shutil.rmtree(folder, ignore_errors=True)
        short = replace(
            run,
            folder=folder,
            rate=rate,
            most=SHORT,
            told=_after(before, told),
        )
        try:
            found[str(rate)] = train(make(), lesson, pupil, short, device).loss
        except NotFiniteError:
            found[str(rate)] = None
        shutil.rmtree(folder, ignore_errors=True)
        if run.stopped():
            raise KeyboardInterrupt
        part = run.folder / f"{TRIED}.part"
        part.write_text(json.dumps(found))
        part.rename(kept)
    losses = {rate: loss for rate in rates if (loss := found[str(rate)]) is not None}
    if not losses:
        raise NotFiniteError(SMALLER)
    return min(losses, key=lambda rate: losses[rate])


def _factor(run: Run) -> float:
    return 1.0 if run.adapters is None else ADAPTERS


def _after(before: int, told: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """The same, of a run that others came before with so many steps."""
    return lambda done, planned: told(before + done, planned)
