"""Reading examples from a hub dataset or a folder of files, as train, validation and test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from axsearch.errors import UsageError, cause
from axsearch.tasks.data_files import SUFFIXES, read_file
from axsearch.tasks.kinds import Columns, TaskKind, check_names, infer_kind, named_kind
from axsearch.tasks.kinds.base import require_columns

CUT_SHARE = 0.1


@dataclass(frozen=True)
class Data:
    """The examples of the three splits, and the decisions made while reading them.

    Attributes:
        kind: the kind of task, named or recognised; it has read the examples of all three splits.
        train: examples to learn from.
        validation: examples to choose by.
        test: examples to report on.
        columns: the columns of texts and labels.
        notes: sentences about splits that were left out or cut from train.
    """

    kind: TaskKind[Any, Any]
    train: list[Any]
    validation: list[Any]
    test: list[Any]
    columns: Columns
    notes: tuple[str, ...] = ()


def read_data(
    source: str,
    *,
    task: str | None = None,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    seed: int = 0,
) -> Data:
    """Read a folder holding train, validation and test files, or a hub dataset ``name[:config]``.

    The kind of task is that of ``task``, or is recognised by the columns. A missing validation or
    test split is a tenth of train, drawn with ``seed`` and removed from train. Raises UsageError if
    the data cannot be used.
    """
    check_names(task, None)
    tables = _read_folder(Path(source).expanduser()) if _is_folder(source) else _read_hub(source)
    kind = named_kind(task) or infer_kind(source, tables["train"], label_column)
    columns = kind.columns(source, tables["train"], text_columns, label_column)
    require_columns(source, tables, columns)
    notes: list[str] = []
    splits: dict[str, list[Any]] = {}
    for name, table in tables.items():
        examples = kind.examples(source, name, table, columns)
        if examples is not None:
            splits[name] = examples
        elif name == "train":
            raise UsageError(f"{source}: the train split has nothing in column {columns.label!r}.")
        else:
            notes.append(f"The {name} split has no labels and is left out.")
    if not kind.learnable(splits["train"]):
        raise UsageError(
            f"{source}: the label column {columns.label!r} is constant; there is nothing to learn."
        )
    for name in ("validation", "test"):
        if name not in splits:
            splits["train"], splits[name] = _cut(source, splits["train"], seed)
            notes.append(
                f"No {name} split: {len(splits[name])} examples were cut from train (seed {seed})."
            )
    train, validation, test = (splits[name] for name in ("train", "validation", "test"))
    return Data(kind, train, validation, test, columns, tuple(notes))


def _is_folder(source: str) -> bool:
    path = Path(source).expanduser()
    # A hub name has at most one slash and never starts like a path.
    return path.is_dir() or source.startswith(("/", ".", "~")) or source.count("/") > 1


def _read_folder(folder: Path) -> dict[str, datasets.Dataset]:
    if not folder.is_dir():
        raise UsageError(f"The data folder {folder} does not exist.")
    tables = {}
    for split in ("train", "validation", "test"):
        found = [p for suffix in SUFFIXES if (p := folder / f"{split}{suffix}").is_file()]
        if len(found) > 1:
            raise UsageError(f"{folder} holds {found[0].name} and {found[1].name}; keep one.")
        if found:
            tables[split] = read_file(found[0])
    if "train" not in tables:
        raise UsageError(f"{folder} holds no train.csv, train.jsonl or train.parquet.")
    return tables


def _read_hub(source: str) -> dict[str, datasets.Dataset]:
    name, _, config = source.partition(":")
    try:
        loaded = datasets.load_dataset(name, config or None)
    except Exception as error:  # the hub client raises a dozen unrelated kinds
        reason = cause(error)
        raise UsageError(
            f"{source} is neither a folder nor a hub dataset that can be loaded: {reason}."
        ) from None
    if "train" not in loaded:
        raise UsageError(f"{source} has no train split; it has {', '.join(loaded)}.")
    names = {"train": "train", "validation": "validation", "test": "test"}
    if "validation_matched" in loaded:  # MNLI
        names |= {"validation": "validation_matched", "test": "test_matched"}
    return {ours: loaded[theirs] for ours, theirs in names.items() if theirs in loaded}


def _cut(source: str, train: list[Any], seed: int) -> tuple[list[Any], list[Any]]:
    share = datasets.Dataset.from_dict({"row": range(len(train))})
    if len(train) < 20:
        raise UsageError(f"{source}: {len(train)} examples are too few to cut a split from.")
    parts = share.train_test_split(test_size=CUT_SHARE, seed=seed)
    kept, cut = ([train[row] for row in sorted(parts[part]["row"])] for part in ("train", "test"))
    return kept, cut
