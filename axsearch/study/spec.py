"""What a study is about, and how its trials are run: records that are kept with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from axsearch.space.recipe import Compensation
from axsearch.space.scenario import Scenario
from axsearch.statistics.measurement import Measurement
from axsearch.store.models import CLOSED_FORM
from axsearch.store.records import read_record
from axsearch.study.settings import Limits, SearchSettings


@dataclass(frozen=True)
class Objective:
    """One thing a study optimises: Optuna's direction, and the Measurement field that holds it."""

    direction: Literal["minimize", "maximize"]
    field: Literal["accuracy", "latency_ratio", "size_ratio"]

    def value(self, measurement: Measurement) -> float:
        """What the trial reports."""
        latency = self.field == "latency_ratio"
        value = measurement.objective_latency if latency else getattr(measurement, self.field)
        assert value is not None
        return float(value)

    def loss(self, measurement: Measurement) -> float:
        """The same, so that less is better."""
        return self.value(measurement) * (-1 if self.direction == "maximize" else 1)


OBJECTIVES: Mapping[str, Objective] = {
    "accuracy": Objective("maximize", "accuracy"),
    "latency": Objective("minimize", "latency_ratio"),
    "size": Objective("minimize", "size_ratio"),
}
"""The objectives by their name on the command line."""


def stored_scenario(given: object) -> object:
    """A scenario of its plain data, before a record with it is validated."""
    return Scenario.from_dict(given) if isinstance(given, Mapping) else given


class StudySpec(BaseModel):
    """What a study is about, kept with it.

    The fields up to ``seed`` are what :meth:`Task.load` and the search were given; the
    fingerprints recognise the same model, data and space when the study is resumed. ``polished`` is
    the key of the weights that the models of its front are polished to, empty where they are not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: str
    data: str
    task: str | None
    metric: str
    text_columns: tuple[str, ...] | None
    label_column: str | None
    labels: tuple[str, ...] | None = None
    tokenizer: str | None = None
    encoding: str | None = None
    reading: PositiveInt = 1
    file_dtype: Annotated[str, Field(pattern="^(float32|float16|bfloat16)$")] = "float32"
    max_length: PositiveInt = 512
    vocabulary_from: str | None = None
    search_examples: PositiveInt | None
    objectives: tuple[str, ...]
    scenario: Annotated[Scenario | None, BeforeValidator(stored_scenario)]
    max_drop: float | None
    max_latency_ratio: PositiveFloat | None
    max_size_ratio: PositiveFloat | None = None
    device: str
    machine: str
    seed: NonNegativeInt
    model_fingerprint: str
    splits: dict[str, str]
    levels: dict[str, list[int | None]]
    compensation: Compensation = "none"
    dtype: Annotated[str, Field(pattern="^(float32|bfloat16)$")] = "float32"
    space_fingerprint: str = ""
    portable: bool = False
    weights: str = CLOSED_FORM
    polished: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = ""
    workload: str | None = None
    latency_tables: PositiveInt = 1

    @classmethod
    def stored(cls, name: str, data: Any) -> StudySpec:
        """What a database holds of a study; raises UsageError where it cannot be that."""
        return read_record(cls, data, f"Study {name!r} in this database")

    @property
    def served(self) -> bool:
        """Whether models are served otherwise than they are evaluated in trials."""
        return self.scenario is not None and not self.scenario.is_reference

    @property
    def limits(self) -> Limits:
        """The limits that models must keep."""
        return Limits(**{one.name: getattr(self, one.name) for one in fields(Limits)})

    @model_validator(mode="after")
    def _consistent(self) -> StudySpec:
        known = set(self.objectives) <= set(OBJECTIVES) and "accuracy" in self.objectives
        if not known or len(set(self.objectives)) < len(self.objectives):
            raise ValueError(f"objectives are accuracy and any of {', '.join(OBJECTIVES)}")
        if set(self.splits) != {"calibration", "search", "holdout"}:
            raise ValueError("splits are calibration, search and holdout")
        if self.scenario is None and "latency" in self.objectives:
            raise ValueError("there is no scenario to measure latency for")
        return self

    def differences(self, other: StudySpec) -> list[str]:
        """In words, what keeps a study with the other spec from being continued as this one."""
        found = []
        if self.model_fingerprint != other.model_fingerprint:
            found.append(f"model ({_instead(other.model, self.model, 'with other weights')})")
        other_length = self.splits != other.splits and self.max_length != other.max_length
        if other_length:
            found.append(f"max length ({other.max_length}, not {self.max_length})")
        if self.splits != other.splits and not (other_length and self.data == other.data):
            found.append(f"data ({_instead(other.data, self.data, 'with other examples')})")
        if self.levels != other.levels or (
            self.space_fingerprint and self.space_fingerprint != other.space_fingerprint
        ):
            found.append("search space")
        for name in (
            "metric", "objectives", "scenario", "max_drop", "max_latency_ratio", "max_size_ratio",
            "compensation", "dtype", "portable",
        ):  # fmt: skip
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                found.append(f"{name.replace('_', ' ')} ({_shown(theirs)}, not {_shown(ours)})")
        if self.weights != other.weights:
            found.append("how the weights of smaller models are made")
        return found


class StoredSettings(BaseModel):
    """The settings that are kept apart from a study's spec, since another search may change them.

    The fields are those of :class:`axsearch.study.settings.SearchSettings`, with nothing left to be
    decided but the approximations.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sampler: str
    epsilon: float | None
    staged: bool
    approximations: tuple[str, ...] | None
    freeze: tuple[str, ...]

    @classmethod
    def of(cls, settings: SearchSettings) -> StoredSettings:
        """What is kept of the settings of a search."""
        return cls(**{name: getattr(settings, name) for name in cls.model_fields})

    def settings(self, spec: StudySpec) -> SearchSettings:
        """The settings of the last search of the study with this spec."""
        return SearchSettings(
            **self.model_dump(),
            objectives=spec.objectives,
            compensation=spec.compensation,
            dtype=spec.dtype,
            portable=spec.portable,
        )


def limits(spec: StudySpec, base_accuracy: float, measurement: Measurement) -> dict[str, float]:
    """How far a model is above each limit of the study; zero or less is feasible."""
    found = {}
    if spec.max_drop is not None:
        found["max_drop"] = base_accuracy - spec.max_drop - measurement.accuracy
    latency = measurement.objective_latency
    if spec.max_latency_ratio is not None and latency is not None:
        found["max_latency_ratio"] = latency - spec.max_latency_ratio
    if spec.max_size_ratio is not None:
        found["max_size_ratio"] = measurement.size_ratio - spec.max_size_ratio
    return found


def _instead(theirs: str, ours: str, otherwise: str) -> str:
    return f"{theirs} {otherwise}" if theirs == ours else f"{theirs}, not {ours}"


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, Scenario):
        items = value.to_dict().items()
        return " ".join(f"{key}={item}" for key, item in items if item is not None)
    return str(value)
