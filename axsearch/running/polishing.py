"""Polish the front: refit its models on many examples, once the search has chosen them.

A trial's model is refitted on a few hundred examples, because there are many trials. With more
examples the same fit is better, see ``docs/compensation.md``: so the models of the front are
refitted on up to 2,048 examples of the training data and evaluated again. Their accuracies are kept
under a key of their own; what trials were told stays as it was.
"""

from __future__ import annotations

import time

from axsearch.evaluation.accuracy import NonFiniteError
from axsearch.evaluation.evaluator import Evaluator
from axsearch.evaluation.loading import polished_weights
from axsearch.progress import console, progress_bar
from axsearch.space.recipe import Recipe
from axsearch.study.study import Study


def polish_front(study: Study, evaluator: Evaluator) -> int:
    """Polish what is not polished of a study's front; returns how many models that were.

    Some of a front's models were lucky in their trials and are worse once they are polished, so
    that others, which they kept off it, are on the front. These are polished in turn, until all
    members are.

    Each model is stored when it is done, so an interrupted call can be continued. At the end it is
    said how many there were and how long that took. Nothing is done, or said, where the study has
    no polished weights (:attr:`StudySpec.polished`), or not the base yet.

    Args:
        study: with finished trials; what was read of it is forgotten.
        evaluator: of its task.

    Raises:
        UsageError: the training data are not those that the study began with.
        KeyboardInterrupt: stopped by the user; what was polished is kept.
    """
    if not study.spec.polished or not study.has_baseline:
        return 0
    began, done = time.monotonic(), 0
    task, better = evaluator.task, None
    failed: set[str] = set()
    while wanted := [recipe for recipe in _unpolished(study) if recipe.hash not in failed]:
        if better is None:
            # Or both would hold what the base computes on their examples.
            evaluator.weights.release()
            weights = polished_weights(study.spec, task, evaluator.device)
            weights.prepare("sequential")  # with its own progress bar
            better = Evaluator(
                task, study.database.engine, None, evaluator.device, study.spec.dtype,
                weights=weights,
            )  # fmt: skip
        with progress_bar() as progress:
            for recipe in progress.track(wanted, description="Polishing the front"):
                try:
                    better.accuracy(recipe, task.search)
                    done += 1
                except NonFiniteError:
                    failed.add(recipe.hash)
                    console.print(
                        "A polished model has numbers that are not finite; it stays as it is."
                    )
        study.refresh()
    if better is not None:
        console.print(
            f"{done} {'model' if done == 1 else 'models'} of the front polished in "
            f"{time.monotonic() - began:.0f} s.",
            style="dim",
        )
    return done


def _unpolished(study: Study) -> list[Recipe]:
    """The members of the front that can be polished and are not."""
    recipes = [Recipe.from_dict(member.recipe) for member in study.front()]
    known = study.polished([recipe.hash for recipe in recipes])
    return [r for r in recipes if r.compensation == "sequential" and r.hash not in known]
