"""Reading labelled text: a hub dataset or a folder of files, into train, validation and test."""

from __future__ import annotations

import csv as python_csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import pyarrow as pa
from pyarrow import csv, json, parquet

from axsearch.errors import UsageError, cause

TEXT_COLUMNS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("text",),
    ("sentence",),
)
"""Columns that are recognised as the text or the two texts, the first match wins."""

OTHER_TASKS = {
    "answers": "question-answering",
    "score": "regression",
    "tokens": "token-classification",
}
"""Columns that make another task plain."""

SUFFIXES = (".csv", ".jsonl", ".parquet")
CUT_SHARE = 0.1


@dataclass(frozen=True)
class LabelledText:
    """One split: ``texts`` holds one or two strings an example, ``labels`` what it is called."""

    texts: list[tuple[str, ...]]
    labels: list[str]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class LabelledData:
    """The three splits, the columns they came from, and what was decided on the way."""

    train: LabelledText
    validation: LabelledText
    test: LabelledText
    text_columns: tuple[str, ...]
    label_column: str
    notes: list[str] = field(default_factory=list)


def read_data(
    source: str,
    *,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    seed: int = 0,
) -> LabelledData:
    """Read a folder holding train, validation and test files, or a hub dataset ``name[:config]``.

    A missing validation or test split is cut from train, one tenth of it, by ``seed``. Raises
    UsageError where the data cannot be used.
    """
    tables = _read_folder(Path(source).expanduser()) if _is_folder(source) else _read_hub(source)
    train = tables["train"]
    texts = (
        tuple(text_columns)
        if text_columns
        else _recognise(source, train.column_names, label_column)
    )
    label = label_column or "label"
    for name, table in tables.items():
        for column in (*texts, label):
            if column not in table.column_names:
                raise UsageError(
                    f"{source}: the {name} split has no column {column!r}; "
                    f"it has {', '.join(table.column_names)}."
                )
    notes: list[str] = []
    splits = {}
    for name, table in tables.items():
        split = _labelled(source, name, table, texts, label)
        if split is None:
            notes.append(f"The {name} split has no labels and is left out.")
        else:
            splits[name] = split
    if len(set(splits["train"].labels)) < 2:
        raise UsageError(
            f"{source}: the label column {label!r} is constant; there is nothing to learn."
        )
    for name in ("validation", "test"):
        if name not in splits:
            splits["train"], splits[name] = _cut(source, splits["train"], seed)
            notes.append(
                f"No {name} split: {len(splits[name])} examples were cut from train (seed {seed})."
            )
    return LabelledData(splits["train"], splits["validation"], splits["test"], texts, label, notes)


def _is_folder(source: str) -> bool:
    path = Path(source).expanduser()
    # A hub name has at most one slash and never begins like a path.
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
            tables[split] = _read_file(found[0])
    if "train" not in tables:
        raise UsageError(f"{folder} holds no train.csv, train.jsonl or train.parquet.")
    return tables


def _read_file(path: Path) -> datasets.Dataset:
    try:
        if path.suffix == ".csv":
            table = _read_csv(path)
        elif path.suffix == ".jsonl":
            table = json.read_json(path)
        else:
            table = parquet.read_table(path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = cause(error)
        raise UsageError(f"{path} cannot be read: {reason}.") from None
    twice = [name for name, count in Counter(table.column_names).items() if count > 1]
    if twice:
        raise UsageError(f"{path} has the column {twice[0]!r} twice; rename one.")
    if not table.num_rows:
        raise UsageError(f"{path} holds no rows.")
    return datasets.Dataset(table)


def _read_csv(path: Path) -> pa.Table:
    # Every cell is text as it stands in the file: '007', 'NA' and 'true' are not rewritten.
    with path.open(encoding="utf-8-sig", newline="") as file:
        names = next(python_csv.reader(file), [])
    return csv.read_csv(
        path,
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
        ),
    )


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


def _recognise(source: str, columns: Sequence[str], label: str | None) -> tuple[str, ...]:
    for column, task in OTHER_TASKS.items():
        if column in columns and column != label and "label" not in columns:
            raise UsageError(
                f"{source} looks like {task} (column {column!r}); "
                "this version of axsearch does text-classification."
            )
    for candidate in TEXT_COLUMNS:
        if set(candidate) <= set(columns):
            return candidate
    raise UsageError(
        f"{source} has none of the text columns axsearch recognises; it has "
        f"{', '.join(columns)}: name them with --text-columns."
    )


def _labelled(
    source: str, name: str, table: datasets.Dataset, texts: tuple[str, ...], label: str
) -> LabelledText | None:
    feature = table.features[label]
    values = table[label][:]
    if isinstance(feature, datasets.ClassLabel):
        values = [None if value in (None, -1) else feature.names[value] for value in values]
        if set(values) == {None}:  # GLUE's test splits
            return None
    labels = [_label(value) for value in values]
    if any(_is_fraction(value) for value in values):
        raise UsageError(
            f"{source}: the labels in column {label!r} are fractions; "
            "this version of axsearch does text-classification."
        )
    columns = [table[column][:] for column in texts]
    rows = list(zip(*columns, strict=True))
    missing = sum(
        called is None or any(text is None for text in row)
        for row, called in zip(rows, labels, strict=True)
    )
    if missing:
        raise UsageError(
            f"{source}: the {name} split has rows without a text or a label "
            f"({missing} of {len(rows)}); remove them."
        )
    return LabelledText([tuple(str(text) for text in row) for row in rows], list(map(str, labels)))


def _label(value: object) -> str | None:
    """What a label is called; None where there is none."""
    if value is None or value == "" or value != value:
        return None
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _is_fraction(value: object) -> bool:
    """Whether a label is a number with digits behind the point, as in regression."""
    text = str(value)
    return re.fullmatch(r"[+-]?\d*\.\d+", text) is not None and not float(text).is_integer()


def _cut(source: str, train: LabelledText, seed: int) -> tuple[LabelledText, LabelledText]:
    share = datasets.Dataset.from_dict({"row": range(len(train))})
    if len(train) < 20:
        raise UsageError(f"{source}: {len(train)} examples are too few to cut a split from.")
    parts = share.train_test_split(test_size=CUT_SHARE, seed=seed)
    kept, cut = (
        LabelledText([train.texts[i] for i in rows], [train.labels[i] for i in rows])
        for rows in (sorted(parts["train"]["row"]), sorted(parts["test"]["row"]))
    )
    return kept, cut
