"""Which running trials are alive: signs of life, and who has shown none for too long."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.orm import Session

from axsearch.store.attributes import WORKER_ATTR
from axsearch.store.clock import age, age_of_utc
from axsearch.store.identity import is_own
from axsearch.store.optuna_internals import HEARTBEATS, SYSTEM_ATTRS, TRIALS


def begin(session: Session, trial_id: int, worker: str) -> None:
    """Record with the start of a trial who runs it, and that it is alive.

    It is done in the same transaction: a trial without a heartbeat would stay running for ever if
    its worker died.
    """
    if session.get_bind().dialect.name == "sqlite":  # it assigns the ids of deleted trials again
        session.execute(delete(HEARTBEATS).where(HEARTBEATS.c.trial_id == trial_id))
    session.execute(insert(HEARTBEATS).values(trial_id=trial_id))
    value = {"trial_id": trial_id, "key": WORKER_ATTR, "value_json": json.dumps(worker)}
    session.execute(insert(SYSTEM_ATTRS).values(value))


def beat(session: Session, trial_id: int, worker: str, identity: str | None) -> None:
    """Record that the trial that this worker began is alive, if it is still there."""
    own = HEARTBEATS.c.trial_id == trial_id, is_own(trial_id, worker, identity)
    session.execute(update(HEARTBEATS).where(*own).values(heartbeat=func.now()))


@dataclass(frozen=True)
class Running:
    """A running trial, and for how many seconds it has shown no sign of life.

    Attributes:
        worker: who runs it; None where it is not a worker of axsearch.
        beat: its last heartbeat, to be compared with others of the same trial.
        silent: seconds since, by the database's clock; since its start where it has none.
    """

    trial_id: int
    number: int
    worker: str | None
    beat: Any
    silent: float


def signs_of_life(session: Session, study_id: int) -> list[Running]:
    """The trials of a study that run, and how long ago their workers were heard of."""
    found = session.execute(
        select(
            TRIALS.c.trial_id,
            TRIALS.c.number,
            SYSTEM_ATTRS.c.value_json,
            HEARTBEATS.c.heartbeat,
            age(HEARTBEATS.c.heartbeat),
            age_of_utc(TRIALS.c.datetime_start),
        )
        .join(HEARTBEATS, HEARTBEATS.c.trial_id == TRIALS.c.trial_id, isouter=True)
        .join(
            SYSTEM_ATTRS,
            (SYSTEM_ATTRS.c.trial_id == TRIALS.c.trial_id) & (SYSTEM_ATTRS.c.key == WORKER_ATTR),
            isouter=True,
        )
        .where(TRIALS.c.study_id == study_id, TRIALS.c.state == TrialState.RUNNING)
        .order_by(TRIALS.c.number)
    ).all()

    def silent(since_beat: float | None, since_start: float | None) -> float:
        known = since_start if since_beat is None else since_beat
        return float("inf") if known is None else float(known)

    return [
        Running(
            trial_id, number, None if text is None else str(json.loads(text)), at, silent(*since)
        )
        for trial_id, number, text, at, *since in found
    ]


@dataclass
class _Sight:
    """A heartbeat, since when it is known, and since when it has been suspected to be the last."""

    beat: Any
    since: float
    suspected: float | None = None


class Watch:
    """Tells workers that died from those that live, whatever happens to clocks.

    A heartbeat that is old by the database's clock proves nothing: that clock may have been set,
    the database may have been away, or all of a machine suspended. So a trial is only suspected
    then, or where its heartbeat has been the same for a grace period by this process's monotonic
    clock, which nobody sets. It is lost where the heartbeat is still the same half a grace period
    later, in which a worker that lives has reported twice.

    A process that looks for the first time knows nothing else and trusts the database's clock,
    except about a worker that is known to live.

    Args:
        grace: seconds without a heartbeat after which a worker is suspected to have died.
    """

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._seen: dict[int, _Sight] = {}
        self._looked = False

    def lost(
        self,
        running: Sequence[Running],
        is_dead: Callable[[str], bool],
        is_alive: Callable[[str], bool],
    ) -> list[Running]:
        """Those of the running trials whose workers died.

        Args:
            running: the trials of a study that others run.
            is_dead: whether a worker of this name is known to have died.
            is_alive: whether one is known to live, even if it does not report.
        """
        first, self._looked = not self._looked, True
        now, seen, lost = time.monotonic(), {}, []
        for trial in running:
            beat = trial.worker, trial.beat
            sight = self._seen.get(trial.trial_id)
            if sight is None or sight.beat != beat:
                sight = _Sight(beat, now)
            seen[trial.trial_id] = sight
            old = trial.silent > self._grace
            if sight.suspected is None and (old or now - sight.since > self._grace):
                sight.suspected = now
            confirmed = sight.suspected is not None and now - sight.suspected >= self._grace / 2
            trusted = first and old and not (trial.worker and is_alive(trial.worker))
            if confirmed or trusted or (trial.worker and is_dead(trial.worker)):
                lost.append(trial)
        self._seen = seen
        return lost
