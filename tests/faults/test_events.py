"""Random sequences of what happens to workers, against the definition of 'nothing lost'."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from axsearch.space.recipe import Recipe
from axsearch.store.claims import Assignment, BudgetFullError
from axsearch.store.database import Database, open_database
from axsearch.store.optuna_internals import id_of_study, id_of_trial
from tests.faults import cheap, definition
from tests.faults.cheap import Cheap, recipe_of, values_of

WANTED = 6
NAMES = [f"layer{layer:02d}.heads" for layer in range(cheap.LAYERS)]


class Process:
    """A worker's process: what is lost when it dies is this object."""

    def __init__(self, url: str, name: str, number: int) -> None:
        self.name = f"worker {number}"
        self.database = open_database(url)
        self.storage = self.database.storage
        self.study = optuna.create_study(
            study_name=name,
            storage=self.storage,
            directions=cheap.DIRECTIONS,
            sampler=optuna.samplers.RandomSampler(seed=number),
            load_if_exists=True,
        )
        self.storage.work_on(Assignment(id_of_study(self.study), WANTED, self.name))
        self.trial: optuna.Trial | None = None
        self.found: Recipe | None = None

    def die(self) -> None:
        # What it kept is not written: closing its connections is all that a dead process does.
        self.storage._running.clear()
        self.database.close()


def machine_of(url: str, prefix: str) -> type[RuleBasedStateMachine]:
    """Workers on studies in this database, a new one for each sequence."""

    class Workers(RuleBasedStateMachine):
        studies = 0

        def __init__(self) -> None:
            super().__init__()
            type(self).studies += 1
            self.name = f"{prefix} {self.studies}"
            self.alive: list[Process] = []
            self.dead: set[str] = set()
            self.started = 0
            self.complete: dict[int, tuple[Any, ...]] = {}

        def a_process(self, draw: int) -> Process:
            return self.alive[draw % len(self.alive)]

        @precondition(lambda self: len(self.alive) < 4)
        @rule()
        def start(self) -> None:
            self.started += 1
            self.alive.append(Process(url, self.name, self.started))

        @precondition(lambda self: self.alive)
        @rule(draw=st.integers(0, 11), same=st.booleans(), early=st.booleans())
        def begin(self, draw: int, same: bool, early: bool) -> None:
            worker = self.a_process(draw)
            if worker.trial is not None:
                return
            if same:  # what another worker may be at, or may have done
                params = dict.fromkeys(NAMES, draw % 3)
                worker.storage.enqueue(id_of_study(worker.study), recipe_of(params), params)
            try:
                worker.trial = worker.study.ask()
            except BudgetFullError:
                return
            if early:  # it may be killed before it has a recipe
                worker.found = None
                return
            most = cheap.HEADS - 1
            params = {name: worker.trial.suggest_int(name, 0, most) for name in NAMES}
            worker.found = recipe_of(params)
            worker.trial.set_user_attr("recipe", worker.found.hash)
            claim = worker.storage.claim(id_of_trial(worker.trial), worker.found)
            if claim.state in ("held", "given up"):
                worker.trial.set_user_attr("dropped", claim.state)
                worker.study.tell(worker.trial, state=TrialState.FAIL)
                worker.trial = None

        @precondition(lambda self: self.alive)
        @rule(draw=st.integers(0, 11))
        def finish(self, draw: int) -> None:
            worker = self.a_process(draw)
            trial, recipe = worker.trial, worker.found
            if trial is None or recipe is None:
                return
            worker.trial = None
            accuracy, size = values_of(recipe)
            columns = {"finished": True, "accuracy": accuracy, "size": size, "feasible": True}
            files = {"recipe.json": recipe.to_json().encode()}
            worker.storage.at_end(id_of_trial(trial), columns, files)
            try:
                worker.study.tell(trial, (accuracy, size))
            except (UpdateFinishedTrialError, ValueError):  # others thought that it was dead
                assert worker.storage.get_trial(id_of_trial(trial)).state == TrialState.FAIL

        @precondition(lambda self: self.alive)
        @rule(draw=st.integers(0, 11))
        def stop(self, draw: int) -> None:
            """A signal: it gives its trial back and ends."""
            worker = self.alive.pop(draw % len(self.alive))
            if worker.trial is not None:
                worker.storage.give_back(id_of_study(worker.study), id_of_trial(worker.trial))
            worker.database.close()

        @precondition(lambda self: self.alive)
        @rule(draw=st.integers(0, 11))
        def kill(self, draw: int) -> None:
            worker = self.alive.pop(draw % len(self.alive))
            self.dead.add(worker.name)
            worker.die()

        @precondition(lambda self: len(self.alive) > 1)
        @rule(draw=st.integers(0, 11), frozen=st.integers(0, 11))
        def look_after_others(self, draw: int, frozen: int) -> None:
            """The dead are found, and perhaps one that is only slow."""
            worker = self.a_process(draw)
            lost = {*self.dead, self.a_process(frozen).name} - {worker.name}
            worker.storage.retry_lost(id_of_study(worker.study), lambda name: name in lost)

        def teardown(self) -> None:
            before = {}
            database = open_database(url)
            if self.name in optuna.get_all_study_names(database.storage):
                study = optuna.load_study(study_name=self.name, storage=database.storage)
                before = definition.complete(study.get_trials())
            database.close()
            for worker in self.alive:
                self.dead.add(worker.name)
                worker.die()
            finish(url, self.name, self.dead)
            definition.check_nothing_lost(url, WANTED, before)

    return Workers


def finish(url: str, name: str, dead: set[str]) -> None:
    """The same command, run again."""
    cheap.NAME = definition.NAME = name
    database: Database = open_database(url)
    try:
        loop = cheap.a_loop(database, Cheap(0.0, lambda: None, lambda: None), WANTED)
        loop.is_dead = lambda worker: worker in dead
        loop.run()
    finally:
        database.close()


@pytest.fixture
def _names() -> Iterator[None]:
    before = cheap.NAME
    yield
    cheap.NAME = definition.NAME = before


@pytest.mark.usefixtures("_names")
def test_nothing_is_lost_whatever_happens(url: str) -> None:
    open_database(url, create=True).close()
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine_of(url, "random"),
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            database=None,
            phases=(Phase.generate,),  # shrinking would open thousands of databases
            suppress_health_check=list(HealthCheck),
        ),
    )
