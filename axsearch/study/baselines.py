"""The honest baselines of a study: the base served as it is, in each precision of the runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt

from axsearch.space.recipe import EXACT
from axsearch.space.scenario import Scenario
from axsearch.statistics.measurement import Measurement
from axsearch.statistics.outcome import Estimate
from axsearch.store.calibration_keys import baselines_kind
from axsearch.store.models import CLOSED_FORM
from axsearch.store.queries import Evaluation, EvaluationKey, load_calibration, load_evaluation
from axsearch.store.records import read_record
from axsearch.study.comparison import AgainstBase, compared
from axsearch.study.study import Study


class TimedBase(BaseModel):
    """The base in one runtime and precision, as the store keeps it.

    Attributes:
        runtime: its name.
        title: what people call it.
        format: the export format that it opens.
        precision: that it was timed in.
        ratio: its time over that of the base in the study's own runtime and precision: the median
            of paired ratios.
        low: their lower quartile.
        high: their upper quartile.
        ms: the median of its times, for the scenario's batches.
        size_bytes: of the files that hold it in this precision.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    runtime: str
    title: str
    format: str
    precision: str
    ratio: PositiveFloat
    low: PositiveFloat
    high: PositiveFloat
    ms: PositiveFloat
    size_bytes: PositiveInt


class TimedBases(BaseModel):
    """All that were timed for one scenario on one machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bases: tuple[TimedBase, ...]


@dataclass(frozen=True)
class Baseline:
    """The base in one runtime and precision.

    Attributes:
        timed: what was timed.
        measurement: as that of a model; ratios are to the base in the study's own runtime and
            precision.
        search: compared with the user's model on the search split, example by example; None where
            it is that model, or was not evaluated.
        holdout: the same on the holdout split.
        opened: its metric on the holdout split, None until that was opened.
        own: whether it is in the study's own runtime and precision.
    """

    timed: TimedBase
    measurement: Measurement
    search: AgainstBase | None
    holdout: AgainstBase | None
    opened: Estimate | None
    own: bool

    @property
    def words(self) -> str:
        """What it is called in tables."""
        return f"{self.timed.title} {self.timed.precision}"


def timed_bases(study: Study) -> tuple[TimedBase, ...]:
    """What was timed of the base for a study; nothing where it is served in PyTorch's float32.

    Raises UsageError where the record is damaged.
    """
    spec = study.spec
    if not spec.served or spec.workload is None:
        return ()
    kind = baselines_kind(spec.machine)
    engine = study.database.engine
    found = load_calibration(engine, spec.model_fingerprint, spec.workload, kind)
    if found is None:
        return ()
    return read_record(TimedBases, found, f"The base of study {study.name!r} as timed").bases


def baselines(study: Study) -> list[Baseline]:
    """The base in each runtime and precision that it was timed and evaluated in, the slowest
    first.
    """
    found = sorted(timed_bases(study), key=lambda one: -one.ratio)
    scenario = study.spec.scenario
    own = [
        one.size_bytes
        for one in found
        if scenario and (one.runtime, one.precision) == (scenario.runtime, scenario.precision)
    ]
    every = [_baseline(study, one, own[0]) for one in found] if own else []
    return [one for one in every if one is not None]


def own_baseline(found: Sequence[Baseline]) -> Baseline | None:
    """The one in the study's own runtime and precision; None where nothing was timed."""
    return next((one for one in found if one.own), None)


def _baseline(study: Study, timed: TimedBase, size: int) -> Baseline | None:
    assert study.spec.scenario is not None
    scenario = replace(study.spec.scenario, runtime=timed.runtime, precision=timed.precision)
    base = study.baseline
    changed = {
        "latency_ratio": timed.ratio,
        "latency_ms": timed.ms,
        "latency_measured": True,
        "size_bytes": timed.size_bytes,
        "size_ratio": timed.size_bytes / size,
        "holdout_accuracy": None,
    }
    known = {split: _evaluation(study, scenario, split) for split in ("search", "holdout")}
    if known["search"] is None:
        return None
    for split, fields in (
        ("search", ("accuracy", "accuracy_low", "accuracy_high")),
        ("holdout", ("holdout_accuracy",)),
    ):
        if (found := known[split]) is not None:
            changed |= dict(zip(fields, (found.value, found.low, found.high), strict=False))
    against = {} if scenario.is_reference else {s: _against(study, s, e) for s, e in known.items()}
    own = (timed.runtime, timed.precision) == (
        study.spec.scenario.runtime, study.spec.scenario.precision,
    )  # fmt: skip
    measurement = base.model_copy(update=changed)
    held = known["holdout"]
    opened = None if held is None else Estimate(held.value, held.low, held.high)
    return Baseline(timed, measurement, against.get("search"), against.get("holdout"), opened, own)


def _evaluation(study: Study, scenario: Scenario, split: str) -> Evaluation | None:
    spec = study.spec
    key = EvaluationKey(
        spec.model_fingerprint,
        spec.splits["calibration"],
        spec.splits[split],
        spec.dtype if split == "search" else "float32",
        spec.metric,
        scenario.served(CLOSED_FORM, spec.splits["calibration"]),
    )
    return load_evaluation(study.database.engine, key, EXACT.hash)


def _against(study: Study, split: str, found: Evaluation | None) -> AgainstBase | None:
    exact = study.outcomes([EXACT], split).get(EXACT.hash)
    if found is None or exact is None:
        return None
    (one,) = compared(split, [found.outcome], exact.outcome, study.spec.seed)  # type: ignore[arg-type]
    return one
