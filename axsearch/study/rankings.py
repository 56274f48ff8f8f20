"""What ``axsearch remeasure`` has ranked of a study, kept with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from axsearch.errors import AxsearchError, UsageError
from axsearch.space.scenario import PRECISION, Scenario, in_words
from axsearch.statistics.measurement import Measurement
from axsearch.store.optuna_internals import STUDY_USER_ATTRS
from axsearch.store.studies import change_attributes
from axsearch.study.choosing import ORDERS
from axsearch.study.study import Study

RANKED = "remeasured for "
"""How the user attribute of a study begins that has a ranking of :func:`keep_ranking`."""


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
    ranking = {
        "workload": workload,
        "machine": machine,
        "trials": [member.trial for member in members],
        "scenario": scenario.to_dict(),
        "costs": {
            str(one.trial): [one.latency_ratio, one.latency_ms, one.size_bytes, one.size_ratio]
            for one in (baseline, *members)
        },
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
    """

    def __init__(self, study: Study, ranking: Mapping[str, Any]) -> None:
        scenario = Scenario.from_dict(ranking["scenario"])
        update = {
            "scenario": scenario, "workload": ranking["workload"], "machine": ranking["machine"]
        }  # fmt: skip
        spec = study.spec.model_copy(update=update)
        super().__init__(study.database, study.name, spec, study.identity)
        self._ranking = ranking

    @cached_property
    def measurements(self) -> list[Measurement]:
        """The base and the members of the front."""
        costs = self._ranking["costs"]
        trials = self.frozen([int(number) for number in costs])
        found = []
        for one in self.measured(list(trials.values())):
            latency, ms, size, share = costs[str(one.trial)]
            known = {
                "latency_ratio": latency, "latency_ms": ms, "latency_measured": True,
                "latency_predicted": None, "size_bytes": size, "size_ratio": share,
            }  # fmt: skip
            found.append(one.model_copy(update=known))
        return found

    @property
    def _candidates(self) -> list[Measurement]:
        return self.measurements

    def front(self) -> list[Measurement]:
        """The members that were ranked, fastest first."""
        trials = self._ranking["trials"]
        members = [one for one in self._members if one.trial in trials]
        return sorted(members, key=ORDERS["latency"])


def ranked(study: Study, runtime: str | None, precision: str | None) -> Study:
    """A study as it was ranked for a runtime and precision; itself where it is about these.

    Args:
        study: that was searched.
        runtime: the study's own if None.
        precision: float32 if None where a runtime is given, else the study's own.

    Raises:
        UsageError: it was not ranked for them.
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
    scenarios = [
        (Scenario.from_dict(one["scenario"]), one)
        for one in rankings(study).values()
        if "scenario" in one  # which those of version 0.1 lack
    ]
    fit = [pair for pair in scenarios if (pair[0].runtime, pair[0].precision) == wanted]
    if not fit:
        raise UsageError(
            f"Study {study.name!r} was not ranked for {wanted[0]} in {wanted[1]}; run `axsearch "
            f"remeasure --runtime {wanted[0]} --precision {wanted[1]}` first."
        )
    # Of several loads the study's own, else the one that was ranked last.
    alike = [
        one
        for scenario, one in fit
        if (scenario.batch_size, scenario.sequence_length) == (own.batch_size, own.sequence_length)
    ]
    return RankedStudy(study, [*(one for _, one in fit), *alike][-1])
