"""The Evaluator: from a recipe to a Measurement, nothing evaluated twice."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable
from dataclasses import asdict
from functools import cache, cached_property

import torch
from sqlalchemy import Engine
from transformers import PreTrainedModel

from axsearch.approximations import recorded
from axsearch.calibration.moments import measure_moments
from axsearch.compensation import Moments
from axsearch.evaluation.accuracy import predict
from axsearch.evaluation.latency import (
    OWN_LENGTH_BATCHES,
    PAIRS,
    Latency,
    Scenario,
    measure_latency,
    workload,
)
from axsearch.evaluation.size import parameter_count, safetensors_bytes
from axsearch.measurement import Measurement
from axsearch.metrics import estimate
from axsearch.progress import progress_bar
from axsearch.recipe import Recipe
from axsearch.store.queries import (
    Evaluation,
    EvaluationKey,
    LatencyKey,
    load_evaluation,
    load_latency,
    save_evaluation,
    save_latency,
)
from axsearch.surgery import plan, shrink, sites_by_id, sliced_state
from axsearch.task import Batch, Split, Task, on_device

EXACT = Recipe.of({})


class Evaluator:
    """Measures recipes of one task on this machine, keeping every result in the store.

    Args:
        task: model and data.
        engine: an open database.
        scenario: what latency is measured for; None leaves latency unmeasured.
        device: where accuracy is evaluated; latency runs on the scenario's device.
    """

    def __init__(
        self, task: Task, engine: Engine, scenario: Scenario | None, device: str = "cpu"
    ) -> None:
        self.task = task
        self.engine = engine
        self.scenario = scenario
        self.device = device
        self.model = on_device(task.model, device)

    @cached_property
    def base(self) -> Measurement:
        """The measurement of the untouched base."""
        return self.measure(EXACT)

    @cached_property
    def moments(self) -> Moments:
        """What compensation needs to know of the base, from the calibration split."""
        calibration = self.task.calibration
        with progress_bar() as progress:
            bar = progress.add_task("Calibrating (moments)", total=None)
            return measure_moments(
                self.model,
                calibration,
                self.task.kind,
                device=self.device,
                on_batch=lambda done, total: progress.update(bar, completed=done, total=total),
            )

    def shrink(self, recipe: Recipe) -> PreTrainedModel:
        """The recipe's smaller model, compensated where the recipe says so."""
        compensated = recipe.compensation != "none"
        return shrink(self.model, recipe, self.moments if compensated else None)

    def measure(self, recipe: Recipe, *, trial: int | None = None) -> Measurement:
        """Accuracy on the search split, latency and size of a recipe's real, smaller model.

        Raises NonFiniteError where the model does not give finite numbers, UsageError where the
        recipe does not fit it.
        """
        small = cache(lambda: self.shrink(recipe))  # not built where all is stored
        accuracy = self.accuracy(recipe, self.task.search, small)
        latency = self.latency(recipe, small)
        base_ms = (
            None if latency is None
            else latency.base_ms if recipe == EXACT
            else self.base.latency_ms
        )  # fmt: skip
        state = sliced_state(self.model, recipe)
        size = safetensors_bytes(state)
        return Measurement(
            trial=trial,
            recipe=recipe.to_dict(),
            accuracy=accuracy.value,
            accuracy_low=accuracy.low,
            accuracy_high=accuracy.high,
            latency_ms=None if latency is None or base_ms is None else latency.ratio * base_ms,
            latency_ratio=None if latency is None else latency.ratio,
            latency_measured=latency is not None,
            size_bytes=size,
            size_ratio=size / safetensors_bytes(self.model.state_dict()),
            parameters=parameter_count(state),
            choices=self.choices(recipe),
        )

    def accuracy(
        self,
        recipe: Recipe,
        split: Split,
        small: Callable[[], PreTrainedModel] | None = None,
    ) -> Evaluation:
        """The metric on a split, from the store where it is known."""
        key = EvaluationKey(
            self.task.model_fingerprint,
            self.task.calibration.fingerprint,
            split.fingerprint,
            "float32",
            self.task.metric,
        )
        known = load_evaluation(self.engine, key, recipe.hash)
        if known is not None:
            return known
        model = small() if small is not None else self.shrink(recipe)
        answers = predict(model, split, self.task.kind, device=self.device)
        outcome = self.task.kind.outcome(self.task.metric, split, answers)
        result = Evaluation(*estimate(outcome), outcome)
        save_evaluation(self.engine, key, recipe, split.name, result)
        return result

    def latency(
        self,
        recipe: Recipe,
        small: Callable[[], PreTrainedModel] | None = None,
        *,
        split: Split | None = None,
        batches: int = OWN_LENGTH_BATCHES,
        pairs: int = PAIRS,
    ) -> Latency | None:
        """The paired latency in the scenario, from the store where it was measured as well.

        Examples come from ``split``, the search split if None. The base's ratio is 1 by
        definition. None where there is no scenario.
        """
        if self.scenario is None:
            return None
        vocabulary = self.model.config.vocab_size
        examples = workload(split or self.task.search, self.scenario, vocabulary, batches)
        digest = hashlib.sha256(repr(sorted(self.scenario.to_dict().items())).encode())
        for batch in examples:
            digest.update(batch["input_ids"].numpy().data)
        key = LatencyKey(self.task.model_fingerprint, digest.hexdigest(), machine_name())
        known = load_latency(self.engine, key, recipe.hash)
        if known is not None and known["pairs"] >= pairs:
            return Latency(**known)  # type: ignore[arg-type]
        model = small() if small is not None else self.shrink(recipe)
        measured = self._time(model, examples, pairs)
        if recipe == EXACT:
            measured = Latency(**{**asdict(measured), "ratio": 1.0})
        save_latency(self.engine, key, recipe, self.scenario.to_dict(), asdict(measured))
        return measured

    def choices(self, recipe: Recipe) -> dict[str, dict[str, int | None]]:
        """Units kept and k, layer by layer of the base."""
        sites = sites_by_id(self.model)
        plan(self.model, recipe)  # refuses a recipe of another model
        described: dict[str, dict[str, int | None]] = {}
        for site in sites.values():
            layer = described.setdefault(f"layer{site.id.layer:02d}", {})
            for name, approximation in recorded(site.id.kind).items():
                layer[name] = approximation.value(site, recipe.at(*site.id).get(name))
        return described

    def _time(self, model: PreTrainedModel, batches: list[Batch], pairs: int) -> Latency:
        assert self.scenario is not None
        device = self.scenario.device
        base, small = on_device(self.model, device), on_device(model, device)
        try:
            return measure_latency(base, small, batches, scenario=self.scenario, pairs=pairs)
        finally:
            on_device(self.model, self.device)


def machine_name() -> str:
    """What makes latencies comparable: host, processor kind, cores and torch version."""
    capability = torch.backends.cpu.get_cpu_capability()
    return (
        f"{platform.node()}, {platform.machine()} {capability}, {os.cpu_count()} cores, "
        f"torch {torch.__version__}"
    )
