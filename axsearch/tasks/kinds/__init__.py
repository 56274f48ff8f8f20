"""The kinds of task, one file each; adding a file to this folder adds a kind."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import datasets

from axsearch import discovery
from axsearch.errors import UsageError
from axsearch.tasks.kinds.base import Columns, TaskKind
from axsearch.tasks.kinds.glue import GLUE
from axsearch.tasks.kinds.sequences import similar_label

__all__ = [
    "Columns",
    "TaskKind",
    "check_names",
    "infer_kind",
    "named_kind",
    "resolve_metric",
    "task_kinds",
]

DEFAULT = "text-classification"


@functools.cache
def task_kinds() -> Mapping[str, TaskKind[Any, Any]]:
    """Every kind by name, in alphabetical order."""
    found = [member() for member in discovery.classes(sys.modules[__name__], TaskKind)]  # type: ignore[type-abstract]
    return MappingProxyType({kind.name: kind for kind in sorted(found, key=lambda k: k.name)})


def check_names(task: str | None, metric: str | None) -> None:
    """Raises UsageError for an unknown task or metric, or a metric that does not fit the task."""
    kinds = task_kinds()
    if task is not None and task not in kinds and task not in GLUE:
        raise UsageError(f"Task {task!r} is not supported; choose {', '.join((*kinds, *GLUE))}.")
    known = list(dict.fromkeys(name for kind in kinds.values() for name in kind.metrics))
    if metric is not None and metric not in known:
        raise UsageError(f"Metric {metric!r} is not known; choose {', '.join(known)}.")
    kind = named_kind(task)
    if kind is not None:
        resolve_metric(kind, task, metric)


def named_kind(task: str | None) -> TaskKind[Any, Any] | None:
    """The kind that a task belongs to; None where no task was given."""
    return None if task is None else task_kinds()[GLUE[task].kind if task in GLUE else task]


def infer_kind(
    source: str, table: datasets.Dataset, label_column: str | None
) -> TaskKind[Any, Any]:
    """The kind that recognises the columns; text-classification if none does."""
    kinds = task_kinds()
    found = [name for name, kind in kinds.items() if kind.recognises(table, label_column)]
    if not found and label_column is None and (label := similar_label(table)) is not None:
        found = [name for name, kind in kinds.items() if kind.recognises(table, label)]
    if len(found) > 1:
        raise UsageError(f"{source} may be {' or '.join(found)}; say which with `task`.")
    return kinds[found[0] if found else DEFAULT]


def resolve_metric(kind: TaskKind[Any, Any], task: str | None, metric: str | None) -> str:
    """The requested metric, or the task's default; raises UsageError for one that does not fit."""
    if metric is None:
        return GLUE[task].metric if task in GLUE else kind.metrics[0]
    if metric not in kind.metrics:
        raise UsageError(
            f"Metric {metric!r} does not fit {kind.name}; choose {', '.join(kind.metrics)}."
        )
    return metric
