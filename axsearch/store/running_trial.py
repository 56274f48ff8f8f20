"""A trial that this process runs: its data, and which of them are not written yet."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Table

from axsearch.store.attributes import WORKER_ATTR
from axsearch.store.optuna_internals import (
    NOT_FOUND,
    PARAMS,
    STEPS,
    SYSTEM_ATTRS,
    USER_ATTRS,
    id_of_trial,
    to_stored_step,
)

Key = tuple[Table, Any]  # one of the four tables above, and the name, key or step in it


class RunningTrial:
    """The parameters, attributes and intermediate values of one running trial.

    ``unwritten`` holds the values still to be written, in the order they were set. Copies may be
    taken while another thread sets something; setting needs a lock.
    """

    def __init__(self, study_id: int, trial: FrozenTrial) -> None:
        self.study_id = study_id
        self.trial_id = id_of_trial(trial)
        self.unwritten: dict[Key, Any] = {}
        self._begun = trial.number, trial.values, trial.datetime_start
        self._params = dict(trial.params)
        self._distributions = dict(trial.distributions)
        self._steps = dict(trial.intermediate_values)
        self._internal = {
            name: distribution.to_internal_repr(trial.params[name])
            for name, distribution in trial.distributions.items()
        }
        # As JSON, so that what is read back is a copy, and the same before it is written and after.
        self._attrs: dict[Table, dict[str, str]] = {
            USER_ATTRS: {key: json.dumps(value) for key, value in trial.user_attrs.items()},
            SYSTEM_ATTRS: {key: json.dumps(value) for key, value in trial.system_attrs.items()},
        }
        self._written: set[Key] = {
            *((PARAMS, name) for name in trial.params),
            *((USER_ATTRS, key) for key in trial.user_attrs),
            *((SYSTEM_ATTRS, key) for key in trial.system_attrs),
            *((STEPS, step) for step in trial.intermediate_values),
        }
        self._since = 0.0
        self._shown = False

    # What is set

    def set_param(self, name: str, internal: float, distribution: BaseDistribution) -> None:
        """Set a parameter; the first value stays, as in a database."""
        if name in self._internal:
            return
        text = distribution_to_json(distribution)
        self._keep((PARAMS, name), (internal, text))
        self._internal[name] = internal
        self._params[name] = distribution.to_external_repr(internal)
        self._distributions[name] = distribution

    def set_attr(self, table: Table, key: str, value: Any) -> None:
        """Set an attribute; raises TypeError where JSON cannot hold it."""
        text = json.dumps(value)
        self._keep((table, key), text)
        self._attrs[table][key] = text

    def set_step(self, step: int, value: float) -> None:
        """Set an intermediate value."""
        self._keep((STEPS, step), value)
        self._steps[step] = value

    def _keep(self, key: Key, value: Any) -> None:
        if not self.unwritten:
            self._since = time.monotonic()
        self.unwritten[key] = value

    # What is known

    @property
    def worker(self) -> str | None:
        """The worker that began it; None without one."""
        text = self._attrs[SYSTEM_ATTRS].get(WORKER_ATTR)
        return None if text is None else str(json.loads(text))

    @property
    def rows(self) -> list[tuple[Table, int]]:
        """How many rows it has in each table once all is written."""
        attrs = [(table, len(kept)) for table, kept in self._attrs.items()]
        return [(PARAMS, len(self._internal)), *attrs, (STEPS, len(self._steps))]

    @property
    def hidden(self) -> bool:
        """Whether it has parameters of which none is written."""
        return not self._shown and any(table is PARAMS for table, _ in self.unwritten)

    @property
    def age(self) -> float:
        """For how many seconds a value has been unwritten."""
        return time.monotonic() - self._since if self.unwritten else 0.0

    def param(self, name: str) -> float:
        """A parameter as the database holds it; raises KeyError where it is not set."""
        try:
            return self._internal[name]
        except KeyError:
            raise KeyError(NOT_FOUND) from None

    def attrs(self, table: Table) -> dict[str, Any]:
        """A copy of its attributes in a table."""
        return {key: json.loads(text) for key, text in dict(self._attrs[table]).items()}

    def frozen(self) -> FrozenTrial:
        """A copy of all of it."""
        number, values, datetime_start = self._begun
        return FrozenTrial(
            number=number,
            state=TrialState.RUNNING,
            value=None,
            values=values,
            datetime_start=datetime_start,
            datetime_complete=None,
            params=dict(self._params),
            distributions=dict(self._distributions),
            user_attrs=self.attrs(USER_ATTRS),
            system_attrs=self.attrs(SYSTEM_ATTRS),
            intermediate_values=dict(self._steps),
            trial_id=self.trial_id,
        )

    # What is to be written

    def new_rows(self) -> Iterator[tuple[Table, list[dict[str, Any]]]]:
        """For each table the rows to insert."""
        for table in (PARAMS, USER_ATTRS, SYSTEM_ATTRS, STEPS):
            rows = [
                self._row(table, name, value)
                for (of, name), value in self.unwritten.items()
                if of is table and (table, name) not in self._written
            ]
            if rows:
                yield table, rows

    def changed(self) -> Iterator[tuple[Table, Any, Any]]:
        """Attributes and intermediate values that have a row already: table, key and new value."""
        for (table, name), value in self.unwritten.items():
            if (table, name) in self._written:
                yield table, name, value if table is STEPS else json.loads(value)

    def mark_written(self) -> None:
        """Mark everything as written."""
        self._shown = self._shown or any(table is PARAMS for table, _ in self.unwritten)
        self._written.update(self.unwritten)
        self.unwritten.clear()

    def _row(self, table: Table, name: Any, value: Any) -> dict[str, Any]:
        if table is PARAMS:
            columns = {"param_name": name, "param_value": value[0], "distribution_json": value[1]}
        elif table is STEPS:
            stored, stored_type = to_stored_step(value)
            columns = {
                "step": name,
                "intermediate_value": stored,
                "intermediate_value_type": stored_type,
            }
        else:
            columns = {"key": name, "value_json": value}
        return {"trial_id": self.trial_id, **columns}
