"""The one check for all silent misreadings: is the base any better than a constant answer?

Swapped labels, a column that is not the label, texts of which all words are unknown, or a head that
was never trained do not stop a search; all of them leave a base that answers no better than one
answer for all would. The base is the study's first trial anyway, so the check costs nothing.
"""

from __future__ import annotations

from axsearch.errors import UsageError
from axsearch.evaluation.accuracy import NonFiniteError
from axsearch.evaluation.evaluator import Evaluator
from axsearch.progress import console
from axsearch.space.recipe import EXACT
from axsearch.statistics import metrics
from axsearch.statistics.inference import paired_difference


def check_base(evaluator: Evaluator, *, force: bool) -> None:
    """Compare the base on the search split with the best constant answer, example by example.

    Raises:
        UsageError: the 95 % interval of the difference does not lie above 0, and it is not forced.
    """
    task = evaluator.task
    try:
        base = evaluator.accuracy(EXACT, task.search)
    except NonFiniteError:  # the first trial fails with it, and may be tried again
        return
    constant = task.kind.trivial_outcome(task.metric, task.calibration, task.search)
    if paired_difference(base.outcome, constant).low > 0:
        return
    found = (
        f"The base has {task.metric} {base.value:.4f} on the {len(base.outcome)} search examples, "
        f"no better than {task.kind.trivial_answer} with {metrics.value(constant):.4f}"
    )
    if force:
        console.print(f"{found}.", style="yellow")
        return
    names = ", ".join(task.search.names[:6])
    classes = f", the classes {names} (`labels` maps others)" if names else ""
    raise UsageError(
        f"{found}, so something may be misread: check the columns{classes} and the tokenizer, or "
        f"give `force=True`. {' '.join((*task.said, *task.notes))}"
    )
