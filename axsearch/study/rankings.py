"""What ``axsearch remeasure`` has ranked of a study, kept with it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, PositiveFloat, PositiveInt

from axsearch.errors import AxsearchError, UsageError
from axsearch.space.scenario import PRECISION, Scenario, in_words
from axsearch.statistics.measurement import Measurement
from axsearch.store.optuna_internals import STUDY_USER_ATTRS
from axsearch.store.records import read_record
from axsearch.store.studies import change_attributes
from axsearch.study.choosing import ORDERS
from axsearch.study.spec import StudySpec, stored_scenario
from axsearch.study.study import Study

RANKED = "remeasured for "
"""How the user attribute of a study begins that has a ranking of :func:`keep_ranking`."""


class RankedModel(BaseModel):
    """What a model takes in the scenario of a ranking: a share of the base's time and bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    latency_ratio: PositiveFloat
    latency_ms: PositiveFloat
    size_bytes: PositiveInt
    size_ratio: PositiveFloat


class Ranking(BaseModel):
    """The front of a study in another scenario or on another machine.

    Attributes:
        workload: the batches that were timed.
        machine: where.
        trials: the members of the front.
        scenario: that they were ranked for; None, as the next ones, where version 0.1 ranked them.
        models: the base and the members, by trial.
        at: when, in UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    workload: str
    machine: str
    trials: list[int]
    scenario: Annotated[Scenario | None, BeforeValidator(stored_scenario)] = None
    models: dict[str, RankedModel] = {}
    at: str = ""


def keep_ranking(
    study: Study,
    scenario: Scenario,
    workload: str,
    machine: str,
    members: Sequence[Measurement],
    baseline: Measurement,
) -> None:
    """Keep which trials are the front in another scenario or on another machine.

    Args:
        study: that was ranked.
        scenario: that it was ranked for.
        workload: the batches that were timed.
        machine: where.
        members: of the front, with their latencies and sizes there.
        baseline: the base there.

    Raises:
        AxsearchError: the study was deleted, or made again, since it was opened.
    """
    name = f"{RANKED}{in_words(scenario)}, on {machine}"
    models = {
        str(one.trial): one.model_dump(include=set(RankedModel.model_fields))
        for one in (baseline, *members)
    }
    ranking = {
        "workload": workload,
        "machine": machine,
        "trials": [member.trial for member in members],
        "scenario": scenario.to_dict(),
        "models": models,
        "at": datetime.now(UTC).isoformat(),
    }
    if not change_attributes(
        study.database.engine,
        study.id,
        lambda _: {name: ranking},
        identity=study.identity,
        attrs=STUDY_USER_ATTRS,
    ):
        raise AxsearchError(
            f"Study {study.name!r} was deleted or replaced meanwhile; the times are kept for its "
            "models, but there is no study left to rank."
        )


def rankings(study: Study) -> dict[str, dict[str, Any]]:
    """What :func:`keep_ranking` has kept: by scenario and machine, workload, machine and trials."""
    attributes = study.optuna.user_attrs
    return {
        name.removeprefix(RANKED): ranking
        for name, ranking in attributes.items()
        if name.startswith(RANKED)
    }


class RankedStudy(Study):
    """A study as ``axsearch remeasure`` has ranked it for another scenario: its front is that.

    Its models are the base and the front's, with the latencies and sizes that they have there, and
    the accuracies with which they are served.

    Args:
        study: that was searched.
        ranking: for another scenario.
    """

    def __init__(self, study: Study, ranking: Ranking) -> None:
        update = {
            "scenario": ranking.scenario,
            "workload": ranking.workload,
            "machine": ranking.machine,
        }
        spec = with_latency(study.spec).model_copy(update=update)
        super().__init__(study.database, study.name, spec, study.identity)
        self.searched = study
        self._ranking = ranking

    @cached_property
    def measurements(self) -> list[Measurement]:
        """The base and the members of the front."""
        known = self._ranking.models
        trials = self.frozen([int(number) for number in known])
        timed = {"latency_measured": True, "latency_predicted": None}
        return [
            one.model_copy(update={**known[str(one.trial)].model_dump(), **timed})
            for one in self.measured(list(trials.values()))
        ]

    @property
    def _candidates(self) -> list[Measurement]:
        return self.measurements

    def front(self) -> list[Measurement]:
        """The members that were ranked, fastest first."""
        members = [one for one in self._members if one.trial in self._ranking.trials]
        return sorted(members, key=ORDERS["latency"])

    def trial(self, number: int) -> Measurement:
        """The measurement of one trial; raises UsageError if it was not ranked."""
        found = next((one for one in self.measurements if one.trial == number), None)
        if found is None:
            raise UsageError(
                f"Trial {number} is not on the front of study {self.name!r} for {self.scenario}."
            )
        return found


def with_latency(spec: StudySpec) -> StudySpec:
    """The same with latency among the objectives, and without a limit on it.

    A limit was given for the scenario that the study was searched for.
    """
    objectives = tuple(dict.fromkeys((*spec.objectives, "latency")))
    return spec.model_copy(update={"objectives": objectives, "max_latency_ratio": None})


def ranked(study: Study, runtime: str | None, precision: str | None) -> Study:
    """A study as it was ranked for a runtime and precision; itself where it is about these.

    Of several loads, machines or threads the study's own are shown, else what was ranked last.

    Args:
        study: that was searched.
        runtime: the study's own if None.
        precision: float32 if None where a runtime is given, else the study's own.

    Raises:
        UsageError: it was not ranked for them, or a ranking is damaged.
    """
    if runtime is None and precision is None:
        return study
    own = study.spec.scenario or Scenario()
    wanted = (
        own.runtime if runtime is None else runtime,
        precision or (PRECISION if runtime is not None else own.precision),
    )
    if study.spec.scenario is not None and (own.runtime, own.precision) == wanted:
        return study
    there = [
        (one.scenario, one)
        for name, data in rankings(study).items()
        if (one := read_ranking(study, name, data)).scenario is not None
    ]
    fit = [(s, one) for s, one in there if (s.runtime, s.precision) == wanted]
    if not fit:
        words = ", ".join(dict.fromkeys(f"{s.runtime} {s.precision}" for s, _ in there))
        raise UsageError(
            f"Study {study.name!r} was not ranked for {wanted[0]} {wanted[1]}"
            f"{f', only for {words}' if words else ''}; `axsearch remeasure` does that."
        )

    def order(pair: tuple[Scenario, Ranking]) -> tuple[bool, bool, bool, str]:
        scenario, one = pair
        load = (scenario.batch_size, scenario.sequence_length)
        return (
            load == (own.batch_size, own.sequence_length),
            one.machine == study.spec.machine,
            scenario.threads == own.threads,
            one.at,
        )

    return RankedStudy(study, max(fit, key=order)[1])


def read_ranking(study: Study, name: str, data: Any) -> Ranking:
    """What :func:`keep_ranking` kept under a name; raises UsageError where it cannot be that."""
    return read_record(Ranking, data, f"The ranking of study {study.name!r} for {name}")
