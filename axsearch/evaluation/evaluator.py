"""The Evaluator: from a recipe to a Measurement, nothing evaluated twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine
from transformers import PreTrainedModel

from axsearch.evaluation.accuracy import Predictions, Predictor
from axsearch.evaluation.closed_form import closed_form
from axsearch.evaluation.latency import (
    OWN_LENGTH_BATCHES,
    PAIRS,
    Latency,
    measure_latency,
    tokens_in,
    workload,
    workload_fingerprint,
)
from axsearch.evaluation.serving import quantization_examples
from axsearch.evaluation.size import model_bytes, parameter_count
from axsearch.evaluation.stages import (
    STANDARD_ERRORS,
    DominatedError,
    Stages,
    Threshold,
    contested,
    joined,
)
from axsearch.evaluation.trained import with_trained
from axsearch.models.refit.compensation import Moments
from axsearch.models.weights import Weights
from axsearch.runtimes import open_session
from axsearch.space.latency_table import LatencyTable
from axsearch.space.recipe import EXACT, Recipe
from axsearch.space.scenario import PRECISION, Scenario
from axsearch.statistics.inference import estimate
from axsearch.statistics.measurement import Measurement
from axsearch.statistics.outcome import Estimate, Outcome
from axsearch.store.models import CLOSED_FORM
from axsearch.store.queries import (
    Evaluation,
    EvaluationKey,
    LatencyKey,
    load_evaluation,
    load_latency,
    save_evaluation,
    save_latency,
)
from axsearch.store.studies import save_machine
from axsearch.system.machine import evaluating, machine_facts, machine_name, measuring
from axsearch.tasks.pretrained import on_device
from axsearch.tasks.split import Batch, Split
from axsearch.tasks.task import Task

NORMAL = 1.96
"""Standard errors to either end of a 95 % interval."""


class Evaluator:
    """Measures recipes of one task on this machine, keeping every result in the store.

    Args:
        task: model and data.
        engine: an open database.
        scenario: what latency is measured for; None leaves latency unmeasured.
        device: where accuracy is evaluated; latency runs on the scenario's device.
        dtype: precision in which the search split is run, float32 or bfloat16; answers are those of
            float32 in both, see :mod:`axsearch.evaluation.bfloat16`.
        machine: whose milliseconds to report, if they were measured; this one's if None.
        weights: the source of the recipes' tensors; the base's, refitted or trained, if None.

    Attributes:
        base: the user's model, the reference that all others are compared with; the recipe without
            choices is always this model, whatever the weights of other recipes are.
        reference: its own tensors, refitted as trials are.
        table: for predicting latency; None to time every recipe's model.
    """

    def __init__(
        self,
        task: Task,
        engine: Engine,
        scenario: Scenario | None,
        device: str = "cpu",
        dtype: str = "float32",
        machine: str | None = None,
        weights: Weights | None = None,
    ) -> None:
        self.task = task
        self.engine = engine
        self.scenario = scenario
        self.device = device
        self.dtype = dtype
        self.machine = machine or machine_name()
        self.base = task.base
        on_device(self.base.model, device)
        self.reference = closed_form(task, device)
        self.weights: Weights = weights or with_trained(self.reference, engine)
        self.table: LatencyTable | None = None
        self.predictor = Predictor(task.kind, device)
        self._first: Predictions | None = None  # of the base, on the search split
        self._known: dict[str, Evaluation] = {}

    @property
    def precision(self) -> str:
        """That in which models are served."""
        return PRECISION if self.scenario is None else self.scenario.precision

    @cached_property
    def examples(self) -> list[Batch]:
        """Inputs of one row each with which int8 is calibrated, where it has to be."""
        return quantization_examples(self.task, EXACT)

    @cached_property
    def baseline(self) -> Measurement:
        """The measurement of the untouched base."""
        return self.measure(EXACT)

    @property
    def moments(self) -> Moments:
        """The moments of the base's inner activations on the calibration split."""
        return self.reference.moments

    def _weights(self, recipe: Recipe) -> Weights:
        return self.reference if recipe == EXACT else self.weights

    def losses(self, recipe: Recipe) -> NDArray[np.float32]:
        """The loss of each feature of the search split in a recipe's model, (features,)."""
        losses = self.accuracy(recipe, self.task.search).losses
        assert losses is not None
        return losses

    @cached_property
    def stages(self) -> Stages:
        """The search split in nested subsets, drawn by the losses of the base."""
        search, base = self.task.search, self.accuracy(EXACT, self.task.search)
        mean = base.outcome.statistic == "mean"
        return Stages(search, contested(self.losses(EXACT), search.owners) if mean else None)

    @property
    def examples_forwarded(self) -> float:
        """The number of examples run so far, counted as whole passes through the base's layers."""
        return self.predictor.layers_run / len(self.base.layers(self.base.model))

    def measure(
        self,
        recipe: Recipe,
        *,
        trial: int | None = None,
        threshold: Callable[[float | None, float], Threshold | None] | None = None,
    ) -> Measurement:
        """Accuracy on the search split, latency and size of a recipe's real, smaller model.

        If a latency table knows the recipe's shapes, it predicts the latency.
        With ``threshold``, which receives latency and size as ratios to the base and returns what
        such a recipe must reach, the evaluation is staged.

        Raises NonFiniteError where numbers of the model are not finite, DominatedError where
        a staged evaluation was stopped, UsageError where the recipe does not fit the model.
        """
        small = cache(lambda: self._weights(recipe).shrink(recipe))  # not built if all is stored
        predicted = self.predicted_ratio(recipe)
        latency = None if predicted is not None else self.latency(recipe, small)
        ratio = latency.ratio if latency is not None else predicted
        state = self.base.cut(recipe)  # whose shapes are those of any weights
        size, whole = (
            model_bytes(s, self.base.dtype, self.precision) for s in (state, self.base.state)
        )
        size_ratio = size / whole
        accuracy = self.accuracy(
            recipe,
            self.task.search,
            small,
            threshold=None if threshold is None else threshold(ratio, size_ratio),
        )
        return Measurement(
            trial=trial,
            recipe=recipe.to_dict(),
            accuracy=accuracy.value,
            accuracy_low=accuracy.low,
            accuracy_high=accuracy.high,
            latency_ms=None if ratio is None else ratio * self._base_ms,
            latency_ratio=ratio,
            latency_measured=latency is not None,
            size_bytes=size,
            size_ratio=size_ratio,
            parameters=parameter_count(state),
            choices=self.base.choices(recipe),
        )

    def predicted_ratio(self, recipe: Recipe) -> float | None:
        """A recipe's time over the base's by the table; None where the table lacks its shapes."""
        if self.table is None or self.scenario is None:
            return None
        if not recipe.sites:  # by definition, whatever a sum of shares is rounded to
            return 1.0
        try:
            return self.table.ratio(recipe) * self.lengthening(recipe)
        except KeyError:  # a recipe from elsewhere, with a k that the space lacks
            return None

    def lengthening(self, recipe: Recipe) -> float:
        """How many times as many tokens a recipe's model reads of the texts that are timed."""
        if self.scenario is None or recipe.vocabulary is None:
            return 1.0
        own = self._workload(self.task.search, OWN_LENGTH_BATCHES, recipe)
        return tokens_in(own) / tokens_in(self.workload[0])

    def accuracy(
        self,
        recipe: Recipe,
        split: Split,
        small: Callable[[], PreTrainedModel] | None = None,
        *,
        threshold: Threshold | None = None,
    ) -> Evaluation:
        """The metric on a split, read from the store if it is known.

        With a ``threshold`` the split must be the search split; raises DominatedError where the
        recipe is confidently below it before all examples were seen.
        """
        searching, read = split is self.task.search, self.task.read(split, recipe)
        key = self._key(recipe, split)
        known = self._known.get(recipe.hash) if searching else None
        known = known or load_evaluation(self.engine, key, recipe.hash)
        if known is not None and known.losses is not None:
            if searching:
                self._known[recipe.hash] = known
            return known
        if threshold is not None:
            self._stop_as_before(key, recipe, threshold)
        try:
            if searching and recipe == EXACT and self._first is not None:
                predictions = self._first
            else:
                model = small() if small is not None else self._weights(recipe).shrink(recipe)
                with evaluating():
                    predictions = self._predictions(model, recipe, read, key.dtype, threshold)
        except DominatedError as stop:
            partial = Evaluation(*stop.estimate, stop.outcome)
            stage = self.stages.name(stop.seen)
            save_evaluation(self.engine, key, recipe, split.name, partial, stage)
            raise
        outcome = self.task.kind.outcome(self.task.metric, read, predictions.answers)
        result = Evaluation(*estimate(outcome), outcome, predictions.losses)
        save_evaluation(self.engine, key, recipe, split.name, result)
        if searching:
            self._known[recipe.hash] = result
        return result

    def first_answers(self) -> Sequence[Any] | None:
        """The base's answers on the search split, as the task's kind decodes them.

        :meth:`accuracy` need not run the base again. None where that is stored: they were seen.
        """
        split = self.task.search
        if load_evaluation(self.engine, self._key(EXACT, split), EXACT.hash) is not None:
            return None
        model = self._weights(EXACT).shrink(EXACT)
        with evaluating():
            self._first = self._predictions(model, EXACT, split, self.dtype, None)
        return self._first.answers

    def _key(self, recipe: Recipe, split: Split) -> EvaluationKey:
        return EvaluationKey(
            self.task.model_fingerprint,
            self.task.calibration.fingerprint,
            split.fingerprint,
            self.dtype if split is self.task.search else "float32",
            self.task.metric,
            self._weights(recipe).key,
        )

    def _predictions(
        self,
        model: PreTrainedModel,
        recipe: Recipe,
        split: Split,
        dtype: str,
        threshold: Threshold | None,
    ) -> Predictions:
        # What the lower layers compute follows from the choices alone in closed form only.
        shared = recipe if self._weights(recipe).key == CLOSED_FORM else None
        if threshold is None:
            return self.predictor.predict(model, split, self.base, shared, dtype=dtype)
        stages, kind = self.stages, self.task.kind
        answers: list[Any] = [None] * len(split)
        losses = np.empty(len(split), np.float32)
        outcomes: list[Outcome] = []
        for stage, (part, rows) in enumerate(zip(stages.of(split), stages.rows, strict=True)):
            found = self.predictor.predict(model, part, self.base, shared, dtype=dtype)
            losses[rows] = found.losses
            for row, answer in zip(rows, found.answers, strict=True):
                answers[row] = answer
            if stage == len(stages.parts) - 1:
                break
            outcomes.append(kind.outcome(self.task.metric, part, found.answers))
            self._check(joined(outcomes), stage, threshold)
        return Predictions(answers, losses)

    def _stop_as_before(self, key: EvaluationKey, recipe: Recipe, threshold: Threshold) -> None:
        """Stop where what was seen of a recipe before, in another study, is enough."""
        for stage in range(len(self.stages.parts) - 1):
            name = self.stages.name(len(self.stages.seen(stage)))
            known = load_evaluation(self.engine, key, recipe.hash, name)
            if known is not None:
                self._check(known.outcome, stage, threshold)

    def _check(self, ours: Outcome, stage: int, threshold: Threshold) -> None:
        value, error = self.stages.estimate(ours, stage, threshold.known)
        if value + STANDARD_ERRORS * error < threshold.value:
            ends = value, value - NORMAL * error, value + NORMAL * error
            least = 0.0 if ours.statistic == "mean" else -1.0
            estimated = Estimate(*(float(np.clip(end, least, 1.0)) for end in ends))
            raise DominatedError(len(ours), estimated, threshold.rival, ours)

    @cached_property
    def _base_ms(self) -> float:
        key = LatencyKey(self.task.model_fingerprint, self.workload[1], self.machine)
        if (known := load_latency(self.engine, key, EXACT.hash)) is not None:
            return known["base_ms"]
        measured = self.latency(EXACT)
        assert measured is not None
        return measured.base_ms

    def latency(
        self,
        recipe: Recipe,
        small: Callable[[], PreTrainedModel] | None = None,
        *,
        split: Split | None = None,
        batches: int = OWN_LENGTH_BATCHES,
        pairs: int = PAIRS,
        again: bool = False,
    ) -> Latency | None:
        """The paired latency in the scenario, read from the store if it was measured before.

        Examples come from ``split``, the search split if None. The base's ratio is 1 by
        definition. With ``again`` it is measured whatever is stored. None where there is no
        scenario.
        """
        if self.scenario is None:
            return None
        examples, fingerprint = self.workload
        if split is not None:
            examples = self._workload(split, batches)
            fingerprint = workload_fingerprint(self.scenario, examples)
        weights = self._weights(recipe)
        key = LatencyKey(self.task.model_fingerprint, fingerprint, machine_name(), weights.key)
        if not again and (known := self._timed(key, recipe, pairs)) is not None:
            return known
        model = small() if small is not None else self._weights(recipe).shrink(recipe)
        own = self._workload(split or self.task.search, batches, recipe)
        rows = quantization_examples(self.task, recipe) if recipe.vocabulary else self.examples
        with measuring():
            if not again and (known := self._timed(key, recipe, pairs)) is not None:
                return known  # measured by the worker that this one waited for
            measured = self._time(model, examples, pairs, own, rows)
            if recipe == EXACT:
                measured = Latency(**{**asdict(measured), "ratio": 1.0})
            save_machine(self.engine, key.machine, machine_facts())
            save_latency(self.engine, key, recipe, self.scenario.to_dict(), asdict(measured))
        return measured

    def _timed(self, key: LatencyKey, recipe: Recipe, pairs: int) -> Latency | None:
        known = load_latency(self.engine, key, recipe.hash)
        enough = known is not None and known["pairs"] >= pairs
        return Latency(**known) if enough else None  # type: ignore[arg-type]

    @cached_property
    def workload(self) -> tuple[list[Batch], str]:
        """The batches that the scenario times, and a fingerprint of them and the scenario."""
        assert self.scenario is not None
        examples = self._workload(self.task.search, OWN_LENGTH_BATCHES)
        return examples, workload_fingerprint(self.scenario, examples)

    def _workload(self, split: Split, batches: int, recipe: Recipe = EXACT) -> list[Batch]:
        """The texts of a split that are timed, as a recipe's model reads them."""
        assert self.scenario is not None
        tokens, read = recipe.vocabulary, self.task.read(split, recipe)
        vocabulary = self.base.model.config.vocab_size if tokens is None else len(tokens)
        return workload(read, self.scenario, vocabulary, batches, chosen_by=split)

    def _time(
        self, model: PreTrainedModel, batches: list[Batch], pairs: int, *own: list[Batch]
    ) -> Latency:
        assert self.scenario is not None
        theirs, rows = own  # the model's batches, and its inputs for int8
        with (
            open_session(self.base.model, self.scenario, self.examples) as base,
            open_session(model, self.scenario, rows) as other,
        ):
            return measure_latency(base, other, batches, theirs, pairs=pairs)
