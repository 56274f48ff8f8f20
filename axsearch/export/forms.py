"""What an export is written as, and how that differs from what the study measured."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch

from axsearch.evaluation.evaluator import Evaluator
from axsearch.evaluation.serving import served_accuracy
from axsearch.evaluation.size import INT8, model_bytes
from axsearch.runtimes import Runtime, runtimes
from axsearch.space.recipe import Recipe
from axsearch.space.scenario import PRECISION, RUNTIME, Scenario
from axsearch.statistics.measurement import Measurement
from axsearch.store.queries import Evaluation
from axsearch.study.study import Study
from axsearch.tasks.task import Task


class Form(NamedTuple):
    """What is written: a format, the precision in which it computes, the type of its weights."""

    format: str
    precision: str
    dtype: str | None

    @property
    def runtime(self) -> Runtime:
        """The one that opens it."""
        return next(one for one in runtimes().values() if one.export_format == self.format)


def precision_of(study: Study, format: str, asked: str | None) -> str:
    """The precision of an export: as asked for, or as the study measured its models."""
    scenario = study.spec.scenario
    if asked is not None or scenario is None or format == "hf":
        return asked or PRECISION
    runtime = runtimes().get(scenario.runtime)
    return scenario.precision if runtime and runtime.export_format == format else PRECISION


def dtype_of(study: Study, format: str) -> str | None:
    """The type in which PyTorch was measured, where it is not that of the base's file."""
    scenario = study.spec.scenario
    half = scenario is not None and (scenario.runtime, scenario.precision) == (RUNTIME, "bfloat16")
    return "bfloat16" if half and format == "hf" else None


def searched_in(study: Study, form: Form) -> str | None:
    """What else accuracy on the search split and latency were measured in; None where in this.

    PyTorch's float32 has the accuracies of any runtime in float32.
    """
    scenario = study.spec.scenario or Scenario()
    if scenario.is_reference:
        same = form.precision == PRECISION
    else:
        same = (scenario.runtime, scenario.precision) == (form.runtime.name, form.precision)
    return None if same else f"{study.runtime} {scenario.precision}"


def sized(
    study: Study, task: Task, measurement: Measurement, form: Form
) -> tuple[Measurement, Measurement]:
    """A model and the base with the sizes of their files, where a study has others.

    Those are of another precision than its own, or of another type of weights.
    """
    own = PRECISION if study.spec.scenario is None else study.spec.scenario.precision
    written = getattr(torch, form.dtype or task.file_dtype)
    if INT8 not in (own, form.precision) and form.dtype in (None, task.file_dtype):
        return measurement, study.baseline
    recipe, base = Recipe.from_dict(measurement.recipe), task.base
    whole = model_bytes(base.state, base.dtype)  # the user's own file
    size = model_bytes(base.cut(recipe), written, form.precision)
    sizes = {"size_bytes": size, "size_ratio": size / whole}
    baseline = study.baseline.model_copy(update={"size_bytes": whole, "size_ratio": 1.0})
    return measurement.model_copy(update=sizes), baseline


def holdout_accuracy(study: Study, evaluator: Evaluator, recipe: Recipe, form: Form) -> Evaluation:
    """The accuracy of what is exported on the holdout split, in its precision."""
    task = evaluator.task
    if form.precision == PRECISION:
        return evaluator.accuracy(recipe, task.holdout)
    runtime, own = form.runtime, study.spec.scenario or Scenario()
    scenario = replace(
        own, runtime=runtime.name, precision=form.precision, device=runtime.devices[0]
    )
    return served_accuracy(
        study.database.engine, task, scenario, recipe, task.holdout, evaluator.weights
    )
