"""One worker: runs the trials of a study in this process, with a model of its own in memory."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from optuna.trial import TrialState

from axsearch.errors import AxsearchError
from axsearch.progress import console, progress_bar
from axsearch.running.finishing import finish_front, note, time_front
from axsearch.running.objective import RecipeObjective
from axsearch.running.standing import Standing
from axsearch.running.trial_loop import TrialLoop
from axsearch.samplers import sampler_named
from axsearch.samplers.base import finished
from axsearch.samplers.warm_start import warm_start
from axsearch.space.problem import Problem
from axsearch.store.outages import DatabaseAwayError, at_once
from axsearch.study.settings import SearchSettings
from axsearch.study.study import Study
from axsearch.system.liveness import is_alive, is_dead, worker_name

if TYPE_CHECKING:
    from axsearch.evaluation.evaluator import Evaluator


def is_due(count: int) -> bool:
    """Whether the dashboard is updated after this many trials.

    An update takes longer as the study grows, so it is done every 20 trials at first and every 500
    later.
    """
    return count % (20 if count <= 200 else 100 if count <= 2000 else 500) == 0


class Worker:
    """One process's work on a study.

    Args:
        study: to work on.
        evaluator: of the study's task, with its latency table.
        problem: the study's search space, and all that is known before a trial.
        settings: how trials are run.
    """

    def __init__(
        self, study: Study, evaluator: Evaluator, problem: Problem, settings: SearchSettings
    ) -> None:
        self.study = study
        self.evaluator = evaluator
        self.problem = problem
        self.space = problem.space
        sampler = sampler_named(settings.sampler)
        self.optuna = study.searching
        self.optuna.sampler = sampler.build(problem, study.spec.seed)
        self.storage = study.database.storage
        self.name = worker_name()
        self.standing = Standing(study, evaluator)
        self.warm_start = [self.space.exact()] if sampler.greedy else warm_start(problem)
        self.objective = RecipeObjective(
            study,
            evaluator,
            problem,
            self.standing,
            staged=bool(settings.staged),
            limited=not sampler.greedy,
            worker=self.name,
        )
        self._noted = 0

    def until(self, wanted: int, *, polish: bool = False) -> None:
        """Run trials until ``wanted`` models are finished, by all workers; then time the front.

        With ``polish`` it is polished and served, too, which one process is to do for all.

        Raises:
            AxsearchError: trials keep failing, or the study was deleted.
            KeyboardInterrupt: a signal came; finished trials are kept.
        """
        self.standing.refresh()
        try:
            if self._count() < wanted or not self.standing.has_base:
                self._run(wanted)
            else:
                console.print(f"Study {self.study.name!r} already has {self._count()} trials.")
            self.standing.refresh()
            if not (polish and self.study.spec.served):  # where they are timed when polished
                time_front(self.evaluator, self.standing.front, self.study.spec.machine)
            if polish:
                finish_front(self.study, self.evaluator)
        except DatabaseAwayError:
            raise
        except BaseException:
            # The study or its database may be missing as well: only the first error is reported.
            with suppress(Exception), at_once():
                self.note()
            raise
        self.note()

    def note(self) -> None:
        """Update the notes and figures in the dashboard."""
        self.standing.refresh()
        if self.standing.has_base:
            note(self.study)

    def _run(self, wanted: int) -> None:
        # With its own progress bar, not in the midst of a trial.
        self.evaluator.weights.prepare(self.space.compensation)
        began, evaluating = time.monotonic(), 0.0
        with progress_bar() as progress:
            bar = progress.add_task("Searching", total=wanted, completed=self._count())

            def show(count: int) -> None:
                nonlocal evaluating
                evaluating += self.objective.seconds
                self.standing.refresh()
                standing = self.standing.words
                progress.update(bar, completed=count, description=f"Searching · {standing}")
                if not console.is_terminal:
                    spent = f"{time.monotonic() - began:.0f} s"
                    console.print(f"trial {count}/{wanted} · {spent} · {standing}")
                if is_due(count) and count != self._noted:  # a known model leaves it as it is
                    self._noted = count
                    self.note()

            loop = TrialLoop(
                self.optuna,
                self.storage,
                self.objective,
                worker=self.name,
                wanted=max(wanted, self._count() + (not self.standing.has_base)),
                is_dead=is_dead,
                is_alive=is_alive,
                identity=self.study.identity,
                on_trial=show,
                ready=self._ready,
            )
            loop.join()
            self._enqueue(wanted - self._count())
            loop.run()
        if loop.done:
            self._report(loop, time.monotonic() - began, evaluating)

    def _report(self, loop: TrialLoop, spent: float, evaluating: float) -> None:
        """Print how long a loop took; ``evaluating`` is the evaluator's part in seconds."""
        stopped = self.optuna.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
        console.print(
            f"{loop.done} trials in {spent:.0f} s, of which sampler, storage and dashboard "
            f"took {(loop.spent - evaluating) / loop.done * 1e3:.0f} ms a trial; "
            f"{len(stopped)} of all trials were pruned: above a limit, or confidently adding "
            "next to nothing.",
            style="dim",
        )

    def _ready(self) -> bool:
        """Make sure that the base is queued as the study's baseline; true where all is tried."""
        if not self.standing.has_base:
            self.standing.refresh()
        if not self.standing.has_base and self._queue(self.space.exact()) == "given up":
            raise AxsearchError(
                "The base itself cannot be evaluated; see why its trials failed, above or in the "
                "dashboard."
            )
        if finished(self.optuna.sampler, self.optuna):
            console.print(f"The sampler has made all its steps: {self._count()} trials.")
            return True
        return False

    def _enqueue(self, room: int) -> None:
        for genome in self.warm_start:
            if room <= 0:
                break
            room -= self._queue(genome) in ("own", "held")

    def _queue(self, genome: Mapping[str, int]) -> str:
        return self.storage.enqueue(self.study.id, self.space.recipe(genome), genome).state

    def _count(self) -> int:
        return self.storage.finished(self.study.id)
