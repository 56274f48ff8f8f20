"""Reading examples from a hub dataset, a folder or a file, as train, validation and test."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from axsearch.errors import UsageError, cause
from axsearch.tasks.columns import columns_read, unread_columns
from axsearch.tasks.cutting import FEWEST, SHARE, cut, cut_as_before
from axsearch.tasks.data_files import FORMATS, READERS, read_file, suffix_of
from axsearch.tasks.data_folder import (
    ARCHIVES,
    Tables,
    by_split,
    read_earlier_folder,
    read_folder,
)
from axsearch.tasks.hub import check_on_hub, is_path
from axsearch.tasks.kinds import Columns, TaskKind, check_names, infer_kind, named_kind
from axsearch.tasks.kinds.base import require_columns
from axsearch.tasks.kinds.sequences import SequenceTask, earlier_columns, is_usual
from axsearch.tasks.spec import AS_BEFORE, LEFT_OUT, UNKNOWN


@dataclass(frozen=True)
class Data:
    """The examples of the three splits, and the decisions made while reading them.

    Attributes:
        kind: the kind of task, named or recognised; it has read the examples of all three splits.
        train: examples to learn from.
        validation: examples to choose by.
        test: examples to report on.
        columns: the columns of texts and labels.
        classes: the names of the data's classes by id, where the data define them.
        said: what was read, in a sentence.
        notes: sentences about columns, rows and files that were not read, and splits that were cut.
    """

    kind: TaskKind[Any, Any]
    train: list[Any]
    validation: list[Any]
    test: list[Any]
    columns: Columns
    classes: tuple[str, ...] = ()
    said: str = ""
    notes: tuple[str, ...] = ()

    @property
    def learnt(self) -> str:
        """SHA-256 of the training examples: what a model fine-tuned on these data has seen."""
        return fingerprint(self.train)


def fingerprint(examples: Sequence[Any]) -> str:
    """SHA-256 of examples as they were read."""
    return hashlib.sha256(json.dumps(examples).encode()).hexdigest()


def read_data(
    source: str,
    *,
    task: str | None = None,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    encoding: str | None = None,
    seed: int = 0,
    reading: int = LEFT_OUT,
) -> Data:
    """Read a folder holding train, validation and test files, a file, or a hub dataset.

    The kind of task is that of ``task``, or is recognised by the columns. A missing split is cut
    with ``seed``, with an even share of each class: a tenth of train, or for test half of
    validation where the model may have been trained on all of train.

    Args:
        source: a folder, a file (of which validation and test are cut), or ``name[:config]``.
        task: a kind, or GLUE's name of a task.
        text_columns: those of the texts, recognised if None.
        label_column: that of the label, recognised if None.
        encoding: of text files, if it is not UTF-8.
        seed: of what is drawn.
        reading: how splits are cut, see :data:`axsearch.tasks.spec.LEFT_OUT`.

    Raises:
        UsageError: the data cannot be used.
    """
    check_names(task, None)
    tables, notes = _tables(source, encoding, reading)
    kind = named_kind(task) or infer_kind(source, tables["train"], label_column)
    if reading == AS_BEFORE and not text_columns and isinstance(kind, SequenceTask):
        text_columns = earlier_columns(tables["train"])
    columns = kind.columns(source, tables["train"], text_columns, label_column)
    test = tables.get("test")
    own = kind.label_columns(columns)
    if test is not None and not set(own) <= set(test.column_names):
        del tables["test"]
        notes.append(_hidden("test"))
    require_columns(source, tables, (*columns.texts, *own))
    # Where a text was chosen by its looks the user is to see what else there is.
    by_looks = isinstance(kind, SequenceTask) and not (text_columns or is_usual(columns.texts))
    notes += unread_columns(tables["train"], (*columns.texts, *own), chosen=by_looks)
    splits = _examples(source, kind, tables, columns, notes)
    if not kind.learnable(splits["train"]):
        raise UsageError(
            f"{source}: the label column {columns.label!r} is constant; there is nothing to learn."
        )
    notes += _cut(source, kind, splits, seed, reading)
    train, validation, test_ = (splits[name] for name in ("train", "validation", "test"))
    classes = kind.classes(tables["train"], columns)
    said = columns_read(kind, columns)
    return Data(kind, train, validation, test_, columns, classes, said, tuple(notes))


def _examples(
    source: str, kind: TaskKind[Any, Any], tables: Tables, columns: Columns, notes: list[str]
) -> dict[str, list[Any]]:
    """The examples of each split that has labels; adds to the notes what is left out."""
    splits: dict[str, list[Any]] = {}
    for name, table in tables.items():
        examples = kind.examples(source, name, table, columns)
        if examples is None and name == "train":
            raise UsageError(f"{source}: the train split has nothing in column {columns.label!r}.")
        if examples is None:
            notes.append(_hidden(name))
            continue
        if len(examples) < len(table):
            notes.append(
                f"{len(table) - len(examples)} of the {len(table)} rows of the {name} split have "
                "no label and are left out."
            )
        splits[name] = examples
    return splits


def _hidden(name: str) -> str:
    return f"The {name} split has no labels and is left out."


def _tables(source: str, encoding: str | None, reading: int) -> tuple[Tables, list[str]]:
    name, colon, config = source.rpartition(":")
    path = Path(source).expanduser()
    if path.is_file() and suffix_of(path) in READERS:
        return {"train": read_file(path, encoding)}, []
    if path.is_dir():
        if reading == AS_BEFORE:
            return read_earlier_folder(path), []
        return read_folder(path, None, encoding)
    if colon and Path(name).expanduser().is_dir():
        return read_folder(Path(name).expanduser(), config, encoding)
    if path.is_file():
        unpack = "; unpack it, and name the folder" if path.suffix.lower() in ARCHIVES else ""
        raise UsageError(f"{path} has none of the formats that are read: {FORMATS}{unpack}.")
    if is_path(source):
        raise UsageError(f"The data folder {path} does not exist.")
    return _read_hub(source, reading)


def _read_hub(source: str, reading: int) -> tuple[Tables, list[str]]:
    name, _, config = source.partition(":")
    check_on_hub(name, "dataset")
    try:
        loaded = datasets.load_dataset(name, config or None)
    except Exception as error:  # the hub client raises a dozen unrelated kinds
        reason = cause(error)
        raise UsageError(
            f"{source} is neither a folder nor a hub dataset that can be loaded: {reason}."
        ) from None
    return by_split(source, loaded, earlier=reading == AS_BEFORE)


def _cut(
    source: str,
    kind: TaskKind[Any, Any],
    splits: dict[str, list[Any]],
    seed: int,
    reading: int,
) -> list[str]:
    """Cut the splits that are missing, in place; returns sentences that say from what."""
    missing = [name for name in ("validation", "test") if name not in splits]
    if reading == UNKNOWN and missing == ["test"] and len(splits["validation"]) >= FEWEST:
        splits["validation"], splits["test"] = cut(splits["validation"], 2, kind.stratum, seed)
        return [
            f"No test split: {len(splits['test'])} examples were cut from validation (seed "
            f"{seed}), since the model may have been trained on all of train."
        ]
    notes = []
    for name in missing:
        rows = splits["train"]
        if len(rows) < FEWEST:
            raise UsageError(f"{source}: {len(rows)} examples are too few to cut a split from.")
        if reading == AS_BEFORE:
            splits["train"], splits[name] = cut_as_before(rows, seed)
        else:
            splits["train"], splits[name] = cut(rows, SHARE, kind.stratum, seed)
        notes.append(
            f"No {name} split: {len(splits[name])} examples were cut from train (seed {seed})."
        )
    if missing and reading == UNKNOWN:
        notes.append(
            "If the model was trained on these examples, it has seen their answers; `axsearch "
            "finetune` leaves them out."
        )
    return notes
