"""What was measured before a study's first trial, read back without its model.

Tables that an older version did not keep are None, or empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from axsearch.space.latency_table import LatencyTable
from axsearch.space.size_table import SizeTable
from axsearch.store.calibration_keys import (
    NO_SPLIT,
    both_splits,
    damage_kind,
    importance_kind,
    latency_kind,
    size_kind,
    trivial_kind,
)
from axsearch.store.queries import load_calibration
from axsearch.study.study import Study


class Tables:
    """The calibration tables of a study; each is read when it is first asked for."""

    def __init__(self, study: Study) -> None:
        self._engine = study.database.engine
        self._spec = study.spec

    @cached_property
    def latency(self) -> LatencyTable | None:
        """The latency table of the study's scenario on its machine."""
        spec = self._spec
        if spec.workload is None:
            return None
        found = self._load(
            spec.workload, latency_kind(spec.machine, spec.levels, spec.latency_tables)
        )
        return LatencyTable.from_dict(found) if found else None

    @cached_property
    def size(self) -> SizeTable | None:
        """What each part of a layer takes of the base's bytes."""
        scenario = self._spec.scenario
        kind = size_kind() if scenario is None else size_kind(scenario.precision)
        found = self._load(NO_SPLIT, kind)
        return SizeTable.from_dict(found) if found else None

    @cached_property
    def damage(self) -> Mapping[str, Sequence[float]]:
        """For each parameter of the genome the damage of each of its levels alone, in nats."""
        return self._damage.get("alone", {})  # type: ignore[no-any-return]

    @cached_property
    def levels(self) -> Mapping[str, Sequence[int | None]]:
        """For each parameter the values of the levels that :attr:`damage` has."""
        return self._damage.get("levels", {})  # type: ignore[no-any-return]

    @cached_property
    def head_importance(self) -> Mapping[str, Sequence[float]]:
        """The scores of the heads of each layer, by ``layer00``."""
        spec = self._spec
        found = self._load(spec.splits["calibration"], importance_kind(spec.compensation))
        return {
            layer: scores
            for site, scores in (found or {}).get("scores", {}).items()
            for layer, _, kind in [site.partition(".")]
            if kind == "attention"
        }

    @cached_property
    def trivial(self) -> float | None:
        """The accuracy of the best constant answer."""
        spec = self._spec
        splits = both_splits(spec.splits["calibration"], spec.splits["search"])
        found = self._load(splits, trivial_kind(spec.metric))
        return found["accuracy"] if found else None

    @cached_property
    def _damage(self) -> Mapping[str, Any]:
        spec = self._spec
        kind = damage_kind(spec.space_fingerprint)
        return self._load(spec.splits["calibration"], kind) or {}

    def _load(self, split: str, kind: str) -> dict[str, Any] | None:
        return load_calibration(self._engine, self._spec.model_fingerprint, split, kind)
