"""Optuna's private names: all in one module, and as they were when that was written."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from typing import Any

import optuna
import pytest
from optuna.artifacts import _upload
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from optuna.study import _constrained_optimization, _tell
from optuna.trial import TrialState

from axsearch.store.artifacts import PREFIX
from axsearch.store.attributes import CONSTRAINTS_ATTR, FIXED_ATTR
from axsearch.store.identified_storage import IdentifiedStorage
from axsearch.store.optuna_internals import ExtensibleStorage
from axsearch.store.trial_storage import TrialStorage
from axsearch.store.work_storage import WorkStorage
from tests.privates import (
    Expected,
    changes,
    imported,
    private_names,
    private_uses,
    trees,
    used_in,
)

MODELS = "optuna.storages._rdb.models"
ELITE = "optuna.samplers.nsgaii._elite_population_selection_strategy"
STRATEGY = "NSGAIIElitePopulationSelectionStrategy"
STORAGE = "optuna.storages:RDBStorage"
ATTRIBUTE = "key VARCHAR(512), value_json TEXT"
STATE = "RUNNING/COMPLETE/PRUNED/FAIL/WAITING"

EXPECTED = {
    # Studies and trials
    "Study._study_id": Expected("int", "id_of_study"),
    "FrozenStudy._study_id": Expected("int", "id_of_study"),
    "Trial._trial_id": Expected("int", "id_of_trial"),
    "FrozenTrial._trial_id": Expected("int", "id_of_trial"),
    "Study._storage": Expected("_CachedStorage", "storage_of"),
    "Study._thread_local.cached_all_trials": Expected("NoneType", "begin_trial"),
    "optuna:Trial.__init__": Expected("self, study, trial_id", "begin_trial"),
    "optuna.study._frozen:FrozenStudy": Expected("type", "id_of_study"),
    "optuna.study._tell:_tell_with_warning": Expected(
        "study, trial, value_or_values=None, state=None, skip_if_finished=False, "
        "suppress_warning=False",
        "end_trial",
    ),
    "optuna:Study.__init__": Expected(
        "self, study_name, storage, sampler=None, pruner=None", "SearchedStudy"
    ),
    "optuna:Study._get_trials": Expected(
        "self, deepcopy=True, states=None, use_cache=False", "SearchedStudy"
    ),
    f"{ELITE}:{STRATEGY}.__init__": Expected(
        "self, *, population_size, constraints_func=None", "elite"
    ),
    f"{ELITE}:{STRATEGY}.__call__": Expected("self, study, population", "elite"),
    # Storage
    f"{STORAGE}._create_new_trial": Expected("self, study_id, template_trial=None", "create_trial"),
    f"{STORAGE}._set_trial_param": Expected(
        "self, trial_id, param_name, param_value_internal, distribution, previous_distribution",
        "set_param",
    ),
    f"{STORAGE}._get_trials": Expected(
        "self, study_id, states, included_trial_ids, trial_id_greater_than", "find_trials"
    ),
    f"{STORAGE}._get_prepared_new_trial": Expected(
        "self, study_id, template_trial, session", "insert_trial"
    ),
    f"{STORAGE}._set_trial_attr_without_commit": Expected(
        "self, session, model_cls, trial_id, key, value", "write_attr"
    ),
    f"{STORAGE}._set_trial_intermediate_value_without_commit": Expected(
        "self, session, trial_id, step, intermediate_value", "write_step"
    ),
    "RDBStorage.scoped_session": Expected("scoped_session", "transaction"),
    "optuna.storages._rdb.storage:_create_scoped_session": Expected(
        "scoped_session, ignore_integrity_error=False", "transaction"
    ),
    "optuna.storages._rdb.storage:_VersionManager.__init__": Expected(
        "self, url, engine, scoped_session", "VersionsInOneQuery"
    ),
    "optuna.storages._rdb.storage:_VersionManager._init_alembic": Expected(
        "self", "VersionsInOneQuery"
    ),
    "RDBStorage._version_manager": Expected("VersionsInOneQuery", "VersionsInOneQuery"),
    # Tables
    f"{MODELS}:NOT_FOUND_MSG": Expected("str", "NOT_FOUND"),
    f"{MODELS}:StudyModel": Expected(
        "study_id INTEGER NOT NULL, study_name VARCHAR(512) NOT NULL", "STUDIES"
    ),
    f"{MODELS}:StudySystemAttributeModel": Expected(
        f"study_system_attribute_id INTEGER NOT NULL, study_id INTEGER, {ATTRIBUTE}",
        "STUDY_SYSTEM_ATTRS",
    ),
    f"{MODELS}:StudyUserAttributeModel": Expected(
        f"study_user_attribute_id INTEGER NOT NULL, study_id INTEGER, {ATTRIBUTE}",
        "STUDY_USER_ATTRS",
    ),
    f"{MODELS}:TrialModel": Expected(
        f"trial_id INTEGER NOT NULL, number INTEGER, study_id INTEGER, state of {STATE} NOT NULL, "
        "datetime_start DATETIME, datetime_complete DATETIME",
        "TRIALS",
    ),
    f"{MODELS}:TrialParamModel": Expected(
        "param_id INTEGER NOT NULL, trial_id INTEGER, param_name VARCHAR(512), "
        "param_value FLOAT, distribution_json TEXT",
        "PARAMS",
    ),
    f"{MODELS}:TrialValueModel": Expected(
        "trial_value_id INTEGER NOT NULL, trial_id INTEGER NOT NULL, objective INTEGER NOT NULL, "
        "value FLOAT, value_type of FINITE/INF_POS/INF_NEG NOT NULL",
        "VALUES",
    ),
    f"{MODELS}:TrialValueModel.value_to_stored_repr": Expected("value", "to_stored_value"),
    f"{MODELS}:TrialValueModel.stored_repr_to_value": Expected(
        "value, float_type", "from_stored_value"
    ),
    f"{MODELS}:TrialIntermediateValueModel": Expected(
        "trial_intermediate_value_id INTEGER NOT NULL, trial_id INTEGER NOT NULL, "
        "step INTEGER NOT NULL, intermediate_value FLOAT, "
        "intermediate_value_type of FINITE/INF_POS/INF_NEG/NAN NOT NULL",
        "STEPS",
    ),
    f"{MODELS}:TrialIntermediateValueModel.intermediate_value_to_stored_repr": Expected(
        "value", "to_stored_step"
    ),
    f"{MODELS}:TrialIntermediateValueModel.stored_repr_to_intermediate_value": Expected(
        "value, float_type", "from_stored_step"
    ),
    f"{MODELS}:TrialUserAttributeModel": Expected(
        f"trial_user_attribute_id INTEGER NOT NULL, trial_id INTEGER, {ATTRIBUTE}", "USER_ATTRS"
    ),
    f"{MODELS}:TrialSystemAttributeModel": Expected(
        f"trial_system_attribute_id INTEGER NOT NULL, trial_id INTEGER, {ATTRIBUTE}",
        "SYSTEM_ATTRS",
    ),
    f"{MODELS}:TrialHeartbeatModel": Expected(
        "trial_heartbeat_id INTEGER NOT NULL, trial_id INTEGER NOT NULL, heartbeat DATETIME",
        "HEARTBEATS",
    ),
}


@pytest.fixture(scope="module")
def examples() -> Iterator[dict[str, object]]:
    """One object of each class of Optuna's that has private attributes which axsearch reads."""
    storage = RDBStorage("sqlite://")
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    yield {
        "Study": study,
        "Trial": trial,
        "FrozenTrial": study.trials[0],
        "FrozenStudy": storage.get_all_studies()[0],
        "RDBStorage": storage,
    }
    storage.remove_session()
    storage.engine.dispose()


@pytest.fixture(scope="module")
def of_objects(examples: dict[str, object]) -> set[str]:
    """The private names of Optuna's objects."""
    return set().union(*map(private_names, examples.values()))


@pytest.fixture(scope="module")
def of_classes(examples: dict[str, object]) -> dict[str, set[str]]:
    """Our classes that inherit from one of Optuna's, with the private names of that."""
    storage, sampler = private_names(examples["RDBStorage"]), private_names(BaseSampler)
    found = {"RDBStorage": storage, "BaseSampler": sampler}
    classes = [
        node
        for tree in trees().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    ]
    for _ in range(5):  # the longest line of ancestors has three
        for one in classes:
            for base in one.bases:
                if isinstance(base, ast.Name) and base.id in found:
                    found[one.name] = found[base.id]
    return found


def test_no_private_name_has_changed(examples: dict[str, object]) -> None:
    found = changes(EXPECTED, examples)
    assert not found, (
        f"Optuna {optuna.__version__} is not the one that axsearch was written for. "
        "See axsearch/store/optuna_internals.py, and of each of these names what uses it:\n"
        + "\n".join(found)
    )


def test_all_that_the_module_uses_is_expected() -> None:
    tree = trees()["store/optuna_internals.py"]
    known = {part for name in EXPECTED for part in name.replace(":", ".").split(".")}
    # _CachedStorage is named in words alone; the models are public names of a private module.
    models = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "models"
    }
    assert used_in(tree, "optuna") | models <= known
    assert len(models) > 8


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda study, trial, values, state: None, "is (study, trial, values, state)"),
        (None, "is no longer there"),
    ],
)
def test_a_changed_name_is_reported_with_its_users(
    examples: dict[str, object], monkeypatch: pytest.MonkeyPatch, change: Any, said: str
) -> None:
    if change is None:
        monkeypatch.delattr(_tell, "_tell_with_warning")
    else:
        monkeypatch.setattr(_tell, "_tell_with_warning", change)
    (sentence,) = changes(EXPECTED, examples)
    assert sentence.startswith("optuna.study._tell:_tell_with_warning was (study, trial, value_")
    assert said in sentence
    assert "used as end_trial by axsearch/running/trial_loop.py:" in sentence


def test_a_new_column_is_reported(examples: dict[str, object]) -> None:
    name = f"{MODELS}:TrialValueModel"
    older = {name: Expected(EXPECTED[name].form.partition(", value_type")[0], "VALUES")}
    (sentence,) = changes(older, examples)
    assert "value FLOAT, value_type of FINITE/INF_POS/INF_NEG NOT NULL)" in sentence
    assert "axsearch/store/trial_rows.py:" in sentence


def test_the_attributes_that_optuna_keeps_things_in_are_called_as_they_were() -> None:
    study = optuna.create_study()
    study.enqueue_trial({"x": 1})
    (waiting,) = study.get_trials(states=(TrialState.WAITING,))
    assert waiting.system_attrs == {FIXED_ATTR: {"x": 1}}
    assert _constrained_optimization._CONSTRAINTS_KEY == CONSTRAINTS_ATTR
    assert _upload.ARTIFACTS_ATTR_PREFIX == PREFIX


PACKAGES = ("optuna", "optuna_dashboard")
HOMES = {
    "store/optuna_internals.py": "optuna",
    "reporting/dashboard/internals.py": "optuna_dashboard",
}


def test_no_other_module_uses_a_private_name(
    of_objects: set[str], of_classes: dict[str, set[str]]
) -> None:
    assert {"TrialStorage", "IdentifiedStorage", "WorkStorage", "GenomeSampler"} <= set(of_classes)
    found = {
        path: uses
        for path, tree in trees().items()
        if (uses := list(private_uses(tree, PACKAGES, of_objects, of_classes)))
    }
    assert set(found) == set(HOMES), found
    for path, package in HOMES.items():
        (other,) = set(PACKAGES) - {package}
        assert not list(imported(trees()[path], other))


@pytest.mark.parametrize(
    "source",
    [
        "from optuna.storages._rdb import models",
        "from optuna.storages._rdb.storage import RDBStorage",
        "from optuna.study._tell import _tell_with_warning",
        "import optuna.storages._rdb.models",
        "from optuna_dashboard import _note",
        "def f(study):\n    return study._study_id",
        "def f(study):\n    return study._storage.get_trial(1)",
        "import optuna\noptuna._imports",
        "class WorkStorage(TrialStorage):\n    def _get_trials(self): ...",
        "class WorkStorage(TrialStorage):\n    def f(self):\n        super()._get_trials()",
        "class WorkStorage(TrialStorage):\n    def f(self):\n        return self._version_manager",
    ],
)
def test_each_way_to_use_one_is_found(
    of_objects: set[str], of_classes: dict[str, set[str]], source: str
) -> None:
    assert list(private_uses(ast.parse(source), PACKAGES, of_objects, of_classes))


def test_names_of_our_own_are_none_of_optuna_s(
    of_objects: set[str], of_classes: dict[str, set[str]]
) -> None:
    source = inspect.cleandoc(
        """
        from optuna.storages import RDBStorage
        class Pulse:
            def _get_trials(self):
                return self._storage
        class WorkStorage(TrialStorage):
            def _begin_new(self):
                return self._running, estimate._asdict()
        """
    )
    assert not list(private_uses(ast.parse(source), PACKAGES, of_objects, of_classes))


def test_public_methods_of_optuna_s_are_overridden_on_purpose_only() -> None:
    """Or one that a new Optuna adds would be overridden without a word."""
    own = {
        name
        for storage in (ExtensibleStorage, TrialStorage, IdentifiedStorage, WorkStorage)
        for name in vars(storage)
        if not name.startswith("_")
    }
    assert own & set(dir(RDBStorage)) == {
        "create_new_study", "delete_study", "get_all_studies", "get_study_directions",
        "get_study_id_from_name", "get_study_name_from_id", "get_study_system_attrs",
        "get_study_user_attrs", "get_trial", "get_trial_param", "get_trial_system_attrs",
        "get_trial_user_attrs", "record_heartbeat", "set_study_system_attr",
        "set_study_user_attr", "set_trial_intermediate_value", "set_trial_state_values",
        "set_trial_system_attr", "set_trial_user_attr",
    }  # fmt: skip
