"""The models that all workers of a study have finished so far, and their front."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna.trial import TrialState

from axsearch.space.recipe import EXACT
from axsearch.statistics.measurement import Measurement
from axsearch.study.fronts import front_of
from axsearch.study.spec import OBJECTIVES
from axsearch.study.study import Study

if TYPE_CHECKING:
    from axsearch.evaluation.evaluator import Evaluator


class Standing:
    """The complete trials of a study's searches and the front that they make.

    Attributes:
        finished: their measurements, in the order in which this process saw them, as they were when
            the trials ended: a trial is not compared with polished models.
        has_base: whether the base itself is among them.

    Args:
        study: the study.
        evaluator: measures the base, with which the front is computed.
    """

    def __init__(self, study: Study, evaluator: Evaluator) -> None:
        self.finished: list[Measurement] = []
        self.has_base = False
        self._study = study
        self._evaluator = evaluator
        self._seen: set[int] = set()
        self._front: list[Measurement] | None = None

    def refresh(self) -> None:
        """Read the trials that were finished, here and elsewhere, since the last call."""
        trials = self._study.searching.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        new = [trial for trial in trials if trial.number not in self._seen]
        if not new:
            return
        found = self._study.measured(new, polished=False)
        self._seen.update(trial.number for trial in new)
        self.finished += found
        self.has_base = self.has_base or any(m.recipe == EXACT.to_dict() for m in found)
        if self._front is not None:
            self._front = self._front_of([*self._front, *found])

    @property
    def front(self) -> list[Measurement]:
        """The front so far."""
        if self._front is None:
            self._front = self._front_of(self.finished)
        return self._front

    def is_new(self, found: Measurement) -> bool:
        """Whether a model is new on the front; each model of the final front is new there once."""
        return found in self._front_of([*self.front, found])

    @property
    def words(self) -> str:
        """The front in a few words, for a progress bar."""
        base = self._evaluator.baseline
        # What users ask first: how much faster (or smaller) at no loss?
        name = "latency" if self._study.spec.scenario is not None else "size"
        field = OBJECTIVES[name].field
        as_good = [getattr(m, field) for m in self.finished if m.accuracy >= base.accuracy]
        best = f" · best {name} at no loss {min(as_good):.2f} of the base" if as_good else ""
        return f"front {len(self.front)}{best}"

    def _front_of(self, measurements: list[Measurement]) -> list[Measurement]:
        return front_of(self._study.spec, self._evaluator.baseline, measurements)
