"""Finding train, validation and test in a folder: by the names of files or of folders.

Names are those that ``datasets`` knows (its documentation, "Structure your repository"); a folder
that ``datasets`` itself wrote or describes is opened by it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import datasets

from axsearch.errors import UsageError, cause
from axsearch.tasks.data_files import (
    FORMATS,
    OF_SPLITS,
    READERS,
    is_compressed,
    read_file,
    stem_of,
    suffix_of,
)

Tables = dict[str, datasets.Dataset]

SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""The names of splits, as ``datasets`` has them."""

EARLIER_SUFFIXES = (".csv", ".jsonl", ".parquet")
"""The formats that version 0.1 read."""

DEPTHS = ("*", "*/*", "*/*/*")
"""How deep files are looked for."""

ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
SAVED_AS = {".xlsx": "CSV", ".xls": "CSV", ".pkl": "Parquet", ".pickle": "Parquet"}
"""Tables that are not read, and as what they are."""

SHARD = re.compile(r"-\d{5}-of-\d{5}")

CONFIGS = re.compile(r"\A---\s.*?^configs:", re.DOTALL | re.MULTILINE)


def split_of(name: str) -> str | None:
    """The split that a name of a file, of a folder or of a split contains as a word, if any.

    A word ends at ``-``, ``.``, ``_``, a blank, a digit or an end, as for ``datasets``.
    """
    for split, keywords in SPLITS.items():
        if re.search(rf"(?:^|[-._ 0-9])(?:{'|'.join(keywords)})(?:[-._ 0-9]|$)", name.lower()):
            return split
    return None


def read_folder(folder: Path, config: str | None, encoding: str | None) -> tuple[Tables, list[str]]:
    """The tables of a folder by split, and sentences about what was not as expected.

    Args:
        folder: with files of examples, or as ``datasets`` saves a dataset, or a copy of a hub
            dataset's repository.
        config: of a repository that has several.
        encoding: of text files, if it is not UTF-8.

    Raises:
        UsageError: no file is for training, two are for the same split, or one cannot be read.
    """
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return by_split(str(folder), _saved(folder))
    card = folder / "README.md"
    if config or (card.is_file() and CONFIGS.search(card.read_text("utf-8", "replace"))):
        return by_split(str(folder), _described(folder, config))
    files, notes = _files(folder)
    return {split: _together(folder, paths, encoding) for split, paths in files.items()}, notes


def read_earlier_folder(folder: Path) -> Tables:
    """The tables of a folder as version 0.1 found them: one file a split, of three formats."""
    tables = {}
    for split in SPLITS:
        found = [p for suffix in EARLIER_SUFFIXES if (p := folder / f"{split}{suffix}").is_file()]
        if found:
            tables[split] = read_file(_only(folder, found))
    if "train" not in tables:
        raise UsageError(f"{folder} holds no train.csv, train.jsonl or train.parquet.")
    return tables


def by_split(
    source: str, loaded: Mapping[str, datasets.Dataset], *, earlier: bool = False
) -> tuple[Tables, list[str]]:
    """Train, validation and test of a dataset, and a sentence about splits that are not read.

    Splits may have other names, but not for version 0.1 (``earlier``). Raises UsageError where
    there is none for training.
    """
    named = dict(loaded)
    for ours in ("validation", "test"):  # MNLI has two of each
        if f"{ours}_matched" in named:
            named[ours] = named[f"{ours}_matched"]
    found = {split: named[split] for split in SPLITS if split in named}
    for name, table in named.items():
        split = split_of(name)
        known = earlier or split is None or split in found or name.endswith("matched")
        if not known:
            found[str(split)] = table
    if "train" not in found:
        raise UsageError(f"{source} has no train split; it has {', '.join(named)}.")
    read = {id(table) for table in found.values()}
    others = [name for name, table in loaded.items() if id(table) not in read]
    notes = [f"Not read: the splits {', '.join(others)}."] if others and not earlier else []
    return {split: found[split] for split in SPLITS if split in found}, notes


def _saved(folder: Path) -> Mapping[str, datasets.Dataset]:
    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:  # datasets raises a dozen unrelated kinds
        raise UsageError(f"{folder} cannot be read: {cause(error)}.") from None
    return {"train": found} if isinstance(found, datasets.Dataset) else found


def _described(folder: Path, config: str | None) -> Mapping[str, datasets.Dataset]:
    try:
        found: Mapping[str, datasets.Dataset] = datasets.load_dataset(str(folder), config)
    except Exception as error:  # datasets raises a dozen unrelated kinds
        raise UsageError(f"{folder} cannot be read: {cause(error)}.") from None
    return found


def _files(folder: Path) -> tuple[dict[str, list[Path]], list[str]]:
    """The files of each split, and a sentence about those that are of none."""
    there = sorted(
        path
        for depth in DEPTHS
        for path in folder.glob(depth)
        if path.is_file()
        and suffix_of(path) in READERS
        and not path.name.startswith(".")
        and all(_may_hold(part) for part in path.relative_to(folder).parts[:-1])
    )
    # What was compressed is often left where it was unpacked.
    there = [path for path in there if not (is_compressed(path) and path.with_suffix("") in there)]
    if any(suffix_of(path) != ".txt" for path in there):  # licences, lists of words
        there = [path for path in there if suffix_of(path) != ".txt"]
    files: dict[str, list[Path]] = {}
    notes: list[str] = []
    for split in SPLITS:
        exact = [path for path in there if _named(folder, path) == split]
        if split == "test" and "validation" not in files and _is_eval_and_test(exact):
            files["validation"], files["test"] = exact[:1], exact[1:]
        elif exact:
            files[split] = [_only(folder, exact)]
        elif conll := [path for path in there if OF_SPLITS.get(suffix_of(path)) == split]:
            files[split] = [_only(folder, conll)]
        elif found := _matched([path for path in there if _within(folder, path) == split]):
            files[split] = found
            notes.append(f"Read as {split}: {_shown(folder, found)}.")
    loose = _only_data(there)
    if not files and loose and _alike(loose):
        files = {"train": loose}
        notes.append(f"Read as train: {_shown(folder, loose)}.")
    if "train" not in files:
        raise UsageError(
            f"{folder} holds no file for training, such as train.csv, train.jsonl or "
            f"train.parquet; it may be one of {FORMATS}{_instead(folder)}."
        )
    used = {path for paths in files.values() for path in paths}
    others = [path for path in there if path not in used]
    if others:
        notes.append(f"Not read: {_shown(folder, others)}.")
    return {split: files[split] for split in SPLITS if split in files}, notes


def _instead(folder: Path) -> str:
    """What to do with files that are there, but are not read."""
    for path in sorted(folder.iterdir()):
        suffix = path.suffix.lower()
        if suffix in ARCHIVES:
            return f"; unpack {path.name}, and name the folder that it makes"
        if suffix == ".py" and b"GeneratorBasedBuilder" in path.read_bytes():
            return (
                f"; {path.name} is a loading script, which datasets runs up to version 3 only: "
                "save what it makes there with to_parquet"
            )
        if suffix in SAVED_AS:
            return f"; save {path.name} as {SAVED_AS[suffix]}"
    return ""


def _may_hold(name: str) -> bool:
    """Whether a folder of this name holds splits: others may hold other data."""
    return name == "data" or (split_of(name) is not None and not name.startswith((".", "__")))


def _named(folder: Path, path: Path) -> str | None:
    """The split that a file directly in the folder is called."""
    if path.parent != folder:
        return None
    stem = stem_of(path).lower()
    return next((split for split, keywords in SPLITS.items() if stem in keywords), None)


def _within(folder: Path, path: Path) -> str | None:
    """The split that the name of a folder above a file contains, or else its own name."""
    *parents, _ = path.relative_to(folder).parts
    words = (split_of(name) for name in (*reversed(parents), stem_of(path)))
    return next((split for split in words if split is not None), None)


def _matched(paths: list[Path]) -> list[Path]:
    """Of MNLI's two validation and test splits the matched ones."""
    matched = [path for path in paths if "matched" in path.name and "mismatched" not in path.name]
    return matched or paths


def _is_eval_and_test(paths: list[Path]) -> bool:
    """Whether there is an ``eval`` beside a ``test``: then it is for validation."""
    stems = [stem_of(path).lower() for path in paths]  # sorted
    return len(stems) == 2 and stems[0].startswith("eval") and stems[1].startswith("test")


def _only(folder: Path, paths: list[Path]) -> Path:
    if len(paths) > 1:
        raise UsageError(f"{folder} holds {paths[0].name} and {paths[1].name}; keep one.")
    return paths[0]


def _only_data(paths: list[Path]) -> list[Path]:
    """Of files whose names say no split those that hold the data: one of that name, or all."""
    called = [path for path in paths if stem_of(path).lower() in ("data", "dataset")]
    return called if len(called) == 1 else paths


def _alike(paths: Iterable[Path]) -> bool:
    return len({suffix_of(path) for path in paths}) == 1


def _together(folder: Path, paths: list[Path], encoding: str | None) -> datasets.Dataset:
    """One table of the files of a split; raises UsageError where they do not fit together."""
    tables = [read_file(path, encoding) for path in paths]
    # As for datasets, a column that a file lacks is empty there: JSON need not write it.
    most, widest = max(zip(paths, tables, strict=True), key=lambda pair: len(pair[1].column_names))
    for path, table in zip(paths, tables, strict=True):
        if not {*table.column_names} <= {*widest.column_names}:
            raise UsageError(
                f"{path} has the columns {', '.join(table.column_names)}, and {most} "
                f"{', '.join(widest.column_names)}; a split's files must have the same."
            )
    if len(tables) == 1:
        return tables[0]
    if not all(SHARD.search(path.name) or _is_in_a_split(folder, path) for path in paths):
        _check_apart(paths, tables)
    try:
        return datasets.concatenate_datasets(tables)
    except Exception as error:  # datasets raises a dozen unrelated kinds
        raise UsageError(
            f"{paths[0]} and {len(paths) - 1} more files do not fit together: {cause(error)}."
        ) from None


def _is_in_a_split(folder: Path, path: Path) -> bool:
    return path.parent != folder and split_of(path.parent.name) is not None


def _check_apart(paths: list[Path], tables: list[datasets.Dataset]) -> None:
    """Raises UsageError where files of one split hold the same rows, as subsets of each other do.

    Files of a folder a split, and those with numbers of their shards, are not looked at.
    """
    seen: list[tuple[Path, set[int]]] = []
    for path, table in zip(paths, tables, strict=True):
        rows = {hash(str(row)) for row in table.to_list()}
        for other, theirs in seen:
            twice = len(rows & theirs)
            if twice > min(len(rows), len(theirs)) // 2:
                raise UsageError(
                    f"{other} and {path} have {twice} rows in common; keep one of them in the "
                    "folder."
                )
        seen.append((path, rows))


def _shown(folder: Path, paths: list[Path]) -> str:
    names = [str(path.relative_to(folder)) for path in paths]
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
