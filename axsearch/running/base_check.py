"""The one check for all silent misreadings: does the base answer what the data ask for?

Swapped labels, a column that is not the label, texts of which all words are unknown, or a head that
was never trained do not stop a search; all of them leave a base that answers no better than one
answer for all would, or better if its classes were in another order. The base is the study's first
trial anyway, so the check costs next to nothing.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from axsearch.errors import UsageError
from axsearch.evaluation.accuracy import NonFiniteError
from axsearch.evaluation.evaluator import Evaluator
from axsearch.progress import console
from axsearch.space.recipe import EXACT
from axsearch.statistics import metrics
from axsearch.statistics.inference import paired_difference
from axsearch.statistics.outcome import Outcome
from axsearch.tasks.task import Task

PLAIN = re.compile(r"[^\s,='\"]+")
"""Labels that can be written on a command line as they are."""

SHOWN = 12
"""Labels that a message maps to classes."""


def check_base(evaluator: Evaluator, *, force: bool) -> None:
    """Compare the base on the search split with the best constant answer, example by example.

    It is compared with itself, too, if its classes were in the order that fits the labels best.

    Raises:
        UsageError: the 95 % interval of the difference to the constant answer does not lie above
            0, or that of another order to this one does, and it is not forced.
    """
    task = evaluator.task
    try:
        better = _another_order(evaluator)
        if better is not None and not force:
            base = better.as_read  # not stored, or it would not be looked at again
        else:
            base = evaluator.accuracy(EXACT, task.search).outcome
    except NonFiniteError:  # the first trial fails with it, and may be tried again
        return
    constant = task.kind.trivial_outcome(task.metric, task.calibration, task.search)
    worthless = paired_difference(base, constant).low <= 0
    if not worthless and better is None:
        return
    found = (
        f"The base has {task.metric} {metrics.value(base):.4f} on the {len(base)} search examples"
    )
    few = worthless and metrics.value(base) > metrics.value(constant)
    if worthless:
        found += (
            f", {'not certainly' if few else 'no'} better than {task.kind.trivial_answer} with "
            f"{metrics.value(constant):.4f}"
        )
    if better is not None:
        found += f", but {metrics.value(better.outcome):.4f} if its classes are in another order"
    if force:
        console.print(f"{found}.", style="yellow")
        return
    names = ", ".join(task.search.names[:6])
    if better is not None:
        mapping = _remedy(task, better.classes)
        remedy = f"so labels may be misread: {mapping}, or `force=True` if they are not"
    else:
        classes = f", the classes {names} (`labels` maps others)" if names else ""
        remedy = (
            f"so something may be misread: check the columns{classes} and the tokenizer, or give "
            f"{'more examples or ' if few else ''}`force=True`"
        )
    raise UsageError(f"{found}, {remedy}. {' '.join((*task.said, *task.notes))}")


class _Order(NamedTuple):
    """An order of the head's classes that fits the labels better.

    Attributes:
        classes: for each class of the head the one that it would have to be.
        outcome: of the base in this order.
        as_read: of the base as labels were read.
    """

    classes: list[int]
    outcome: Outcome
    as_read: Outcome


def _another_order(evaluator: Evaluator) -> _Order | None:
    """The order that fits better; None if none does, or if the base was looked at before.

    Of many classes some order always fits the mistakes of a base better. So it has to fit better on
    each half of the examples when it is learnt from the other half.
    """
    kind, metric, split = evaluator.task.kind, evaluator.task.metric, evaluator.task.search
    answers = evaluator.first_answers() if kind.largest_logit and len(split.names) > 1 else None
    found = None if answers is None else kind.reordered(split, answers, range(len(answers)))
    if answers is None or found is None or found[0] == sorted(found[0]):
        return None
    crossed = list(answers)
    for half in (0, 1):
        learnt = kind.reordered(split, answers, range(1 - half, len(answers), 2))
        assert learnt is not None
        crossed[half::2] = learnt[1][half::2]
    ours, theirs, tried = (kind.outcome(metric, split, own) for own in (answers, found[1], crossed))
    return _Order(found[0], theirs, ours) if paired_difference(tried, ours).low > 0 else None


def _remedy(task: Task, order: list[int]) -> str:
    """What says that a label is the class of which the head answers it."""
    theirs = {label: order.index(index) for label, index in task.labels.ids.items()}
    if len(theirs) <= SHOWN and all(PLAIN.fullmatch(label) for label in theirs):
        by_class = sorted(theirs.items(), key=lambda pair: pair[1])
        pairs = ",".join(f"{label}={index}" for label, index in by_class)
        return f'give `labels="{pairs}"`'
    moved = [label for label, index in theirs.items() if index != task.labels.ids[label]]
    pairs = ", ".join(f"{label!r} as {theirs[label]}" for label in moved[:SHOWN])
    return f"let `labels` read {pairs}"
