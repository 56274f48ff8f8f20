"""Optuna's private names: every one that axsearch uses, each under a name that says its purpose.

Optuna has no public way to write a trial in one transaction, to start a waiting trial in one worker
only, or to read its tables row by row. pyproject.toml pins it below its next major version, and
``tests/store/test_optuna_internals.py`` says which of these names a new Optuna has changed and
where they are used. A second test there holds all other modules to Optuna's public names. (Those of
Optuna Dashboard are in :mod:`axsearch.reporting.dashboard.internals`, since importing
any of them loads its web app.)
"""

from __future__ import annotations

import copy
from collections.abc import Container, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, NamedTuple

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers.nsgaii._elite_population_selection_strategy import (
    NSGAIIElitePopulationSelectionStrategy,
)
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb import storage as rdb_storage
from optuna.storages._rdb.storage import _create_scoped_session, _VersionManager
from optuna.study._frozen import FrozenStudy
from optuna.study._tell import _tell_with_warning
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Table
from sqlalchemy.orm import Session

from axsearch.store.attributes import RECOVERED_ATTR
from axsearch.store.schema_version import recorded_version

# Optuna's tables. Read and written as such they are several times faster than as its classes.

STUDIES: Table = models.StudyModel.__table__
STUDY_SYSTEM_ATTRS: Table = models.StudySystemAttributeModel.__table__
STUDY_USER_ATTRS: Table = models.StudyUserAttributeModel.__table__
TRIALS: Table = models.TrialModel.__table__
PARAMS: Table = models.TrialParamModel.__table__
VALUES: Table = models.TrialValueModel.__table__
STEPS: Table = models.TrialIntermediateValueModel.__table__
USER_ATTRS: Table = models.TrialUserAttributeModel.__table__
SYSTEM_ATTRS: Table = models.TrialSystemAttributeModel.__table__
HEARTBEATS: Table = models.TrialHeartbeatModel.__table__

OPTUNA_TABLES: frozenset[str] = frozenset(STUDIES.metadata.tables)
"""The names of all of Optuna's tables."""

NOT_FOUND: str = models.NOT_FOUND_MSG
"""The message of Optuna's KeyErrors about a study or trial that does not exist."""

# Infinities and NaN, which not every database can hold, are stored as null and a kind.

to_stored_value = models.TrialValueModel.value_to_stored_repr
from_stored_value = models.TrialValueModel.stored_repr_to_value
to_stored_step = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr
from_stored_step = models.TrialIntermediateValueModel.stored_repr_to_intermediate_value


# Studies and trials


def id_of_study(study: optuna.Study | FrozenStudy) -> int:
    """The id of a study in its storage; publicly it has only its name, which costs a query."""
    return study._study_id


def id_of_trial(trial: optuna.Trial | FrozenTrial) -> int:
    """The id of a trial in its storage; publicly it has only its number, which costs a query."""
    return trial._trial_id


def storage_of(study: optuna.Study) -> BaseStorage:
    """The storage that a study reads through: Optuna's cache of finished trials before another."""
    return study._storage


def set_system_attr(study: optuna.Study, trial: FrozenTrial, key: str, value: Any) -> None:
    """Set a system attribute of a running trial.

    Samplers store their state in these, apart from users' attributes; Optuna's own samplers set
    them in this way, since its public API no longer does.
    """
    storage_of(study).set_trial_system_attr(trial._trial_id, key, value)


def begin_trial(study: optuna.Study) -> optuna.Trial:
    """Begin a new trial, as ``Study.ask`` does, but without reading all trials.

    ``Study.ask`` looks for a waiting one, in time that grows with the study.
    """
    study._thread_local.cached_all_trials = None  # they are those of the previous trial
    return optuna.Trial(study, study._storage.create_new_trial(study._study_id))


def end_trial(
    study: optuna.Study,
    trial: optuna.Trial,
    values: Sequence[float] | None,
    state: TrialState | None,
) -> None:
    """End a trial, as ``Study.tell`` does, but without reading the whole trial again.

    ``state`` is None for a complete trial. Raises ValueError where the trial does not run,
    UpdateFinishedTrialError where another process ended it, KeyError where it was deleted.
    """
    _tell_with_warning(study, trial, values, state)


def elite(study: optuna.Study, trials: list[FrozenTrial], size: int) -> list[FrozenTrial]:
    """The best of some complete trials, at most ``size``, as NSGA-II selects them.

    By non-dominated rank, the last rank by crowding distance; trials that break a constraint come
    last, by how far they break it.
    """
    return NSGAIIElitePopulationSelectionStrategy(population_size=size)(study, trials)


class SearchedStudy(optuna.Study):
    """A study whose recovered models are hidden: from its sampler, and from all that read it.

    A sampler would learn from them that a genome is better than it is, and draw other genomes than
    in a study in which nothing was recovered.
    """

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        found = super()._get_trials(deepcopy=False, states=states, use_cache=use_cache)
        kept = [trial for trial in found if RECOVERED_ATTR not in trial.user_attrs]
        return copy.deepcopy(kept) if deepcopy else kept


def searched_study(name: str, storage: BaseStorage) -> optuna.Study:
    """Load a study as ``optuna.load_study`` does, without its recovered models.

    Raises KeyError where there is no such study.
    """
    return SearchedStudy(study_name=name, storage=storage)


# Storage


class NewTrial(NamedTuple):
    """A trial that was just inserted; ``began`` is naive local time, None where it waits."""

    trial_id: int
    number: int
    began: datetime | None


TABLES_VERSION = "v3.2.0.a"
"""The version of the tables that this Optuna makes, as its table ``alembic_version`` has it."""


class VersionsInOneQuery(_VersionManager):
    """Optuna's check of its tables, which imports Alembic and runs all of its migrations' files.

    Both take longer than all queries of a command that reads a study, so they are left out where
    the tables are of this version already.
    """

    def _init_alembic(self) -> None:
        if not self.are_current():
            super()._init_alembic()

    def check_table_schema_compatibility(self) -> None:
        """Raises RuntimeError where the tables are of another version."""
        if not self.are_current():
            super().check_table_schema_compatibility()

    def are_current(self) -> bool:
        """Whether the tables are those that this Optuna makes."""
        with self.engine.connect() as connection:
            return recorded_version(connection, "alembic_version") == TABLES_VERSION


# RDBStorage makes one of these in the midst of its constructor, which asks nobody for the class.
rdb_storage._VersionManager = VersionsInOneQuery  # type: ignore[misc]


class ExtensibleStorage(RDBStorage):
    """An RDBStorage whose private methods have public names, to be overridden and called.

    A study reads and writes through Optuna's cache of finished trials (``_CachedStorage``), which
    calls private methods of the storage behind it. Here these call the public ones, so that a
    subclass overrides what the cache does, too.
    """

    def _create_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None = None
    ) -> FrozenTrial:
        return self.create_trial(study_id, template_trial)

    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        self.set_param(
            trial_id, param_name, param_value_internal, distribution, previous_distribution
        )

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        return self.find_trials(study_id, states, included_trial_ids, trial_id_greater_than)

    def create_trial(self, study_id: int, template: FrozenTrial | None = None) -> FrozenTrial:
        """Begin a trial, or add one that is as the template."""
        return super()._create_new_trial(study_id, template)

    def set_param(
        self,
        trial_id: int,
        name: str,
        internal: float,
        distribution: BaseDistribution,
        earlier: BaseDistribution | None,
    ) -> None:
        """Set a parameter of a running trial.

        Raises ValueError where the distribution is not compatible with the ``earlier`` one of the
        study's other trials; it is looked up if None.
        """
        super()._set_trial_param(trial_id, name, internal, distribution, earlier)

    def find_trials(
        self, study_id: int, states: Container[TrialState] | None, known: set[int], after: int
    ) -> list[FrozenTrial]:
        """The trials of a study in these states, None for any, in the order of their ids.

        Only those with an id above ``after`` or among ``known``; all if ``after`` is -1.
        """
        return super()._get_trials(study_id, states, known, after)

    # Within a transaction

    def transaction(self) -> AbstractContextManager[Session]:
        """A session of this thread; its end commits, an exception rolls back.

        Raises StorageInternalError in place of SQLAlchemy's errors, but for IntegrityError.
        """
        return _create_scoped_session(self.scoped_session)

    def insert_trial(
        self, session: Session, study_id: int, template: FrozenTrial | None
    ) -> NewTrial:
        """Insert a trial, running or as the template, into a study that the session has locked."""
        row = self._get_prepared_new_trial(study_id, template, session)
        return NewTrial(int(row.trial_id), int(row.number), row.datetime_start)

    def write_attr(
        self, session: Session, table: Table, trial_id: int, key: str, value: Any
    ) -> None:
        """Set an attribute in :data:`USER_ATTRS` or :data:`SYSTEM_ATTRS`, new or not."""
        self._set_trial_attr_without_commit(session, _ATTRIBUTES[table], trial_id, key, value)

    def write_step(self, session: Session, trial_id: int, step: int, value: float) -> None:
        """Set an intermediate value, new or not."""
        self._set_trial_intermediate_value_without_commit(session, trial_id, step, value)


_ATTRIBUTES: dict[Table, Any] = {
    USER_ATTRS: models.TrialUserAttributeModel,
    SYSTEM_ATTRS: models.TrialSystemAttributeModel,
}
