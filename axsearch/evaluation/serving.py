"""The accuracy of models as a runtime serves them, in its precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sqlalchemy import Engine
from transformers import PreTrainedModel

from axsearch.evaluation.accuracy import BATCH_SIZE, NonFiniteError, Predictions
from axsearch.models.weights import Weights
from axsearch.runtimes import Session, open_session
from axsearch.space.recipe import Recipe
from axsearch.space.scenario import Scenario
from axsearch.statistics.inference import estimate
from axsearch.store.queries import Evaluation, EvaluationKey, load_evaluation, save_evaluation
from axsearch.system.machine import evaluating
from axsearch.tasks.kinds import TaskKind
from axsearch.tasks.split import Batch, Split
from axsearch.tasks.task import Task

EXAMPLES = 128
"""Examples of the calibration split with which int8 is calibrated."""


def quantization_examples(task: Task, recipe: Recipe) -> list[Batch]:
    """Inputs of one row each of a recipe's model, drawn evenly from the calibration split, for
    int8's ranges.
    """
    split = task.read(task.calibration, recipe)
    rows = np.linspace(0, len(split) - 1, min(EXAMPLES, len(split))).astype(int)
    return [split.collate([row]) for row in dict.fromkeys(rows.tolist())]


def served_accuracy(
    engine: Engine,
    task: Task,
    scenario: Scenario,
    recipe: Recipe,
    split: Split,
    weights: Weights,
    small: Callable[[], PreTrainedModel] | None = None,
) -> Evaluation:
    """The metric of a recipe's model on a split as a scenario's runtime serves it, if not stored.

    int8 that takes its ranges from each batch, as ONNX Runtime's does, depends a little on which
    examples are in a batch: here on 64 of similar length.

    Args:
        engine: an open database.
        task: of the recipe.
        scenario: its runtime, precision and threads are used.
        recipe: of the model.
        split: of the task.
        weights: of the recipe.
        small: makes the model, if it is at hand.

    Raises:
        NonFiniteError: a logit is not finite.
    """
    key = EvaluationKey(
        task.model_fingerprint,
        task.calibration.fingerprint,
        split.fingerprint,
        "float32",  # the type of what is compared; the precision is part of the weights' key
        task.metric,
        scenario.served(weights.key, task.calibration.fingerprint),
    )
    known = load_evaluation(engine, key, recipe.hash)
    if known is not None and known.losses is not None:
        return known
    model = small() if small is not None else weights.shrink(recipe)
    read, examples = task.read(split, recipe), quantization_examples(task, recipe)
    with evaluating(), open_session(model, scenario, examples) as session:
        found = predictions(session, read, task.kind)
    outcome = task.kind.outcome(task.metric, read, found.answers)
    result = Evaluation(*estimate(outcome), outcome, found.losses)
    save_evaluation(engine, key, recipe, split.name, result)
    return result


def predictions(session: Session, split: Split, kind: TaskKind[Any, Any]) -> Predictions:
    """A session's answers for every feature of a split, in batches of similar length."""
    answers: list[Any] = [None] * len(split)
    losses = np.empty(len(split), np.float32)
    for rows, batch in split.batches(BATCH_SIZE):
        logits = kind.logits(session.run(session.prepare(batch))).float().cpu()
        if not torch.isfinite(logits).all():
            raise NonFiniteError("The model's logits are not finite.")
        losses[rows] = kind.losses(logits, split.collate_targets(rows)).numpy()
        for row, answer in zip(rows, kind.decode(logits, split, rows), strict=True):
            answers[row] = answer
    return Predictions(answers, losses)
