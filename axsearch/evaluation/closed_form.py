"""The weights of a task's smaller models, refitted on its calibration examples."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from axsearch.evaluation.bfloat16 import is_fast
from axsearch.models.refit.compensation import Moments
from axsearch.models.refit.moments import drawn, measure_moments
from axsearch.models.refit.moments_cache import cached_moments
from axsearch.models.refit.refits_cache import RefitFiles
from axsearch.models.refit.sample import (
    FEWEST,
    TRIAL,
    Sample,
    SampleSize,
    measure_sample,
    polishing_size,
)
from axsearch.models.weights import ClosedForm
from axsearch.progress import progress_bar
from axsearch.system.memory import budget
from axsearch.tasks.split import Split
from axsearch.tasks.task import Task

MOST = 4 << 30
"""Bytes of the caches that polishing takes; a quarter of the free memory if less. One process of a
study polishes, once."""


def closed_form(task: Task, device: str) -> ClosedForm:
    """The base's tensors, refitted on the calibration split where recipes compensate.

    What that needs is measured when it is first needed, with progress; moments are cached for the
    user.
    """

    def measured() -> Moments:
        with _told("Calibrating (moments)") as told:
            return measure_moments(
                task.base, task.calibration, task.kind, device=device, on_batch=told
            )

    key = (task.model_fingerprint, task.calibration.fingerprint, device)
    return ClosedForm(
        task.base,
        lambda: cached_moments(key, measured),
        lambda: _sample(task, task.calibration, TRIAL, device),
    )


def polished(task: Task, device: str) -> ClosedForm:
    """The base's tensors, refitted sequentially on many examples of the training data.

    What was refitted once is kept in the user's cache, for exports and reports.
    """
    key = polished_key(task)
    return ClosedForm(
        task.base,
        None,
        lambda: _sample(task, task.training, polishing_size(task.base), device),
        key=key,
        memory=budget(share=1 / 4, most=MOST),
        files=RefitFiles(
            [task.model_fingerprint, task.kind.name, key, device, str(is_fast(device))]
        ),
    )


def polished_key(task: Task) -> str:
    """The key of a task's polished weights: that of the examples and of how many are taken."""
    size = polishing_size(task.base)
    given = f"polished {size.examples} {size.tokens} {task.training.fingerprint}"
    return hashlib.sha256(given.encode()).hexdigest()


def pays_to_polish(task: Task) -> bool:
    """Whether polishing would refit on more tokens than trials do, by half as many at least.

    It would not where texts are long, so that a trial takes as many tokens, where the base is
    large, or where examples are few.
    """
    size = polishing_size(task.base)
    more = drawn(task.training, size.tokens, size.examples, FEWEST)
    few = drawn(task.calibration, TRIAL.tokens, TRIAL.examples, FEWEST)
    tokens = [int(s.lengths[n].sum()) for s, n in ((task.training, more), (task.calibration, few))]
    return tokens[0] >= 1.5 * tokens[1]


def _sample(task: Task, split: Split, size: SampleSize, device: str) -> Sample:
    with _told("Calibrating (tokens)") as told:
        return measure_sample(
            task.base, split, task.kind, size,
            device=device, bfloat16=is_fast(device), on_batch=told,
        )  # fmt: skip


@contextmanager
def _told(what: str) -> Iterator[Callable[[int, int], None]]:
    with progress_bar() as progress:
        bar = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)
