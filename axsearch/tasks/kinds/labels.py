"""The classes of a head, and which of them each label of the data is."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from transformers import PreTrainedConfig

from axsearch.errors import UsageError

NO_GOLD = "-1"
"""The label of a row without a gold label, as GLUE's and SNLI's files have it."""

GENERIC = re.compile(r"(?:label[-_ ]?)?\d+", re.IGNORECASE)
"""Names of classes that say only which class they are, as transformers writes them by default."""

NUMBER = re.compile(r"[-+]?[0-9.]+")

WHOLE = re.compile(r"[0-9]+(?:\.0*)?")
"""A class id as files have it; with a fraction of zeros where pandas took it for any number."""

COUNT = re.compile(r"\s*([0-9]+)(?:\.0*)?[-_\s]*([^0-9]*)")
"""A number of something: 4 stars, or 4 alone."""

TRUTH = {"false": 0, "true": 1}
YES, NO = ("yes", "true", "pos"), ("no", "non", "not", "un", "neg", "false")
"""Beginnings of the names of classes that are not the first, and not the second."""

SHOWN = 6


class Labels(NamedTuple):
    """A head's classes: their names by id, and the id of each label of the data.

    Attributes:
        names: of all classes of the head, by id.
        ids: the class id of each label of the data; a label without one has no gold label.
        note: a sentence, where labels and classes do not have the same names.
    """

    names: tuple[str, ...]
    ids: Mapping[str, int]
    note: str | None = None

    @classmethod
    def of(cls, names: Sequence[str]) -> Labels:
        """The labels of a new head with these names."""
        return cls(tuple(names), {name: index for index, name in enumerate(names)})


@dataclass(frozen=True)
class LabelHints:
    """What is known of the data's labels beside themselves.

    Attributes:
        classes: the names of the data's classes by their id, where the data define them.
        mapping: the head's class, by id or name, that the user gave for a label of the data.
    """

    classes: tuple[str, ...] = ()
    mapping: Mapping[str, str] = field(default_factory=dict)


def read_mapping(given: Sequence[str] | None) -> dict[str, str]:
    """Labels and their classes from ``label=class``; raises UsageError for another form."""
    found: dict[str, str] = {}
    for pair in given or ():
        label, equals, target = pair.rpartition("=")
        if not equals or not label.strip() or not target.strip() or label.strip() in found:
            raise UsageError(
                "`labels` takes each label of the data once, with the class that it is, such as "
                f"negative=0,positive=1, not {pair!r}."
            )
        found[label.strip()] = target.strip()
    return found


def fit_labels(
    config: PreTrainedConfig, labels: Sequence[str], hints: LabelHints | None = None
) -> Labels:
    """The class id of each label in a trained head.

    The user's mapping comes first. Then labels are classes by name: as written, or regardless of
    case, ``-``, ``_`` and blanks where no two become the same. Numbers are class ids, and so are
    the data's own ids of their classes where the head's names are generic, as for transformers'
    examples. What cannot be ids counts what the classes count ("5" or "5 star" is "5 stars"), or
    the classes, from 1; of two classes false is the first and true the second. ``id2label`` names
    the head's classes, as in transformers' pipelines.

    Args:
        config: of the model.
        labels: all that the data have.
        hints: what else is known of them.

    Raises:
        UsageError: no rule gives each label a class.
    """
    hints = hints or LabelHints()
    names, note = head_names(config)
    found = sorted(set(labels))
    _check_mapping(found, hints.mapping)
    if NO_GOLD not in (*names, *hints.mapping) and _may_be_no_gold(found, names, hints.mapping):
        found.remove(NO_GOLD)
    if hints.mapping:
        return Labels(names, _by_mapping(names, found, hints.mapping), note)
    if set(found) <= set(names):
        return Labels(names, {label: names.index(label) for label in found}, note)
    similar = _by_similar_name(names, found)
    if similar is not None:
        said = [note] if note else _read_as("regardless of case", names, similar)
        return Labels(names, similar, " ".join(said))
    generic = all(GENERIC.fullmatch(name) for name in names)
    if generic and hints.classes and set(found) <= set(hints.classes):
        if len(hints.classes) <= len(names):
            ids = {label: hints.classes.index(label) for label in found}
            by_id = sorted(ids.items(), key=lambda pair: pair[1])
            pairs = ", ".join(f"{i} is {label}" for label, i in by_id[:SHOWN])
            of_data = f"The head's classes have no names, so ids are those of the data: {pairs}."
            plain = all(label == str(i) for label, i in ids.items())
            return Labels(names, ids, note or (None if plain else of_data))
        raise UsageError(
            f"The data have {len(hints.classes)} classes, the model's head {len(names)}; fine-tune "
            "it with `axsearch finetune`, or give the right data."
        )
    for rule, how in OTHER_RULES.items():
        if (own := rule(names, found)) is not None:
            said = [note] if note else []
            return Labels(names, own, " ".join([*said, *_read_as(how, names, own)]) or None)
    raise UsageError(
        f"The labels of the data ({_shown(found)}) do not fit the model's head, which knows "
        f'{_shown(names)}; say which is which, such as `labels="{_example(names, found)}"`.'
    )


def _example(names: Sequence[str], found: Sequence[str]) -> str:
    """A mapping to copy: where some labels are classes, of the others to classes of similar names.

    Otherwise of the first labels to the first classes.
    """
    others = [label for label in found if label not in names and label != NO_GOLD][:2]
    if not set(found) & set(names):
        return ",".join(f"{label}={index}" for index, label in enumerate(others))
    unused = [name for name in names if name not in found] or [names[0]]
    near: list[str] = []
    for label in others:
        left = [name for name in unused if name not in near] or unused
        near.append((difflib.get_close_matches(label, left, 1, 0.0) or left)[0])
    return ",".join(f"{label}={name}" for label, name in zip(others, near, strict=True))


def head_names(config: PreTrainedConfig) -> tuple[tuple[str, ...], str | None]:
    """The names of a head's classes by id, and a sentence where its config contradicts itself."""
    by_id = {int(index): str(name) for index, name in (config.id2label or {}).items()}
    if sorted(by_id) != list(range(len(by_id))):
        raise UsageError(
            f"The ids of id2label in the model's config are {', '.join(map(str, sorted(by_id)))}; "
            f"they must be 0 to {len(by_id) - 1}."
        )
    names = tuple(by_id[index] for index in range(len(by_id)))
    given: object = config.label2id
    other = given if isinstance(given, Mapping) else {}
    opposed = [n for i, n in enumerate(names) if n in other and str(other[n]) != str(i)]
    if opposed:
        return names, (
            f"The config's id2label and label2id contradict each other, as for {opposed[0]!r}; "
            "id2label is used, as by transformers' pipelines."
        )
    return names, None


def best_order(answered: ArrayLike, labels: ArrayLike, classes: int) -> list[int]:
    """For each class that is answered the one that it would have to be to have most labels right.

    Classes stay what they are where nothing is won: an assignment problem (Kuhn 1955).

    Args:
        answered: class ids, (examples,).
        labels: those that were expected, (examples,).
        classes: how many there are.
    """
    from scipy.optimize import linear_sum_assignment  # once a study; it takes half a second

    counts = np.zeros((classes, classes))
    np.add.at(counts, (np.asarray(answered), np.asarray(labels)), 1)
    stay = np.eye(classes) / (2 * classes)  # all together less than one example
    order: list[int] = linear_sum_assignment(counts + stay, maximize=True)[1].tolist()
    return order


def new_labels(
    train: Sequence[str],
    others: Sequence[str],
    hints: LabelHints,
    order: Any = None,
) -> Labels:
    """The labels of a head that is to be trained, sorted by ``order``; notes those of no training.

    With a mapping the classes are those that it names, in the order of their ids, or of the
    mapping where it has names.

    Raises:
        UsageError: a label is not in the mapping, or the ids of the mapping are not 0 to n - 1.
    """
    there = {*train, *others}
    _check_mapping(there, hints.mapping)
    if NO_GOLD not in hints.mapping and _may_be_no_gold(there, (), hints.mapping):
        there.remove(NO_GOLD)
    found, untrained = sorted(there, key=order), sorted((there & {*others}) - {*train})
    note = (
        f"Only in validation or test, so nothing can be learnt of it: {_shown(untrained)}."
        if untrained
        else None
    )
    if not hints.mapping:
        return Labels.of(found)._replace(note=note)
    missing = [label for label in found if label not in hints.mapping]
    if missing:
        raise UsageError(f"`labels` must name every label of the data; it lacks {_shown(missing)}.")
    targets = list(dict.fromkeys(hints.mapping.values()))
    if all(target.isdecimal() for target in targets):
        if sorted(map(int, targets)) != list(range(len(targets))):
            raise UsageError(
                f"The class ids in `labels` must be 0 to {len(targets) - 1}, "
                f"not {', '.join(sorted(targets))}."
            )
        ids = {label: int(hints.mapping[label]) for label in hints.mapping}
        first = {i: label for label, i in reversed(ids.items())}
        return Labels(tuple(first[i] for i in range(len(targets))), ids, note)
    ids = {label: targets.index(target) for label, target in hints.mapping.items()}
    return Labels(tuple(targets), ids, note)


def no_labels(kind: str, hints: LabelHints | None) -> Labels:
    """The labels of a kind without classes; raises UsageError where the user mapped some."""
    if hints is not None and hints.mapping:
        raise UsageError(f"`labels` maps labels to classes, which {kind} does not have.")
    return Labels((), {})


def _check_mapping(found: Collection[str], mapping: Mapping[str, str]) -> None:
    """Raises UsageError for a label in the user's mapping that no row has."""
    unknown = [label for label in mapping if label not in found]
    if unknown:
        raise UsageError(
            f"`labels` names {_shown(unknown)}, but the labels of the data are "
            f"{_shown(sorted(found))}."
        )


def _may_be_no_gold(
    found: Collection[str], names: Sequence[str], mapping: Mapping[str, str]
) -> bool:
    """Whether -1 says that a row has no gold label, as in GLUE and SNLI.

    It does beside names, beside class ids above 1, beside the ids of all classes of a head, and
    beside labels that the user mapped; -1, 0 and 1 alone may be three classes of their own.
    """
    others = {*found} - {NO_GOLD}
    if NO_GOLD not in found or not others:
        return False
    return bool(mapping) or not others <= {"0", "1"} or others == {*map(str, range(len(names)))}


def named_config(labels: Labels) -> dict[str, Any]:
    """The config entries of a head with named classes."""
    return {
        "num_labels": len(labels.names),
        "id2label": dict(enumerate(labels.names)),
        "label2id": {name: index for index, name in enumerate(labels.names)},
    }


def _by_mapping(
    names: tuple[str, ...], found: Sequence[str], mapping: Mapping[str, str]
) -> dict[str, int]:
    ids = {}
    for label in found:
        target = mapping.get(label, label)
        if target in names:
            ids[label] = names.index(target)
        elif target.isdecimal() and int(target) < len(names):
            ids[label] = int(target)
        else:
            raise UsageError(
                f"`labels` names no class of the model's head for {label!r}; the head knows "
                f"{_shown(names)}, with the ids 0 to {len(names) - 1}."
            )
    return ids


def _by_similar_name(names: tuple[str, ...], found: Sequence[str]) -> dict[str, int] | None:
    if any(NUMBER.fullmatch(label) for label in found):  # -1 is not 1
        return None
    theirs = [_plain(name) for name in names]
    ours = [_plain(label) for label in found]
    if len({*theirs}) < len(theirs) or len({*ours}) < len(ours) or not {*ours} <= {*theirs}:
        return None
    return {label: theirs.index(own) for label, own in zip(found, ours, strict=True)}


def _by_number(names: tuple[str, ...], found: Sequence[str]) -> dict[str, int] | None:
    if any(name.isdecimal() for name in names):  # then '1' may be the name of class 0
        return None
    ids = {label: int(label.partition(".")[0]) for label in found if WHOLE.fullmatch(label)}
    return ids if len(ids) == len(found) and max(ids.values()) < len(names) else None


def _by_count(names: tuple[str, ...], found: Sequence[str]) -> dict[str, int] | None:
    """Labels that count what the names of the classes count, such as stars."""
    theirs = [COUNT.fullmatch(name) for name in names]
    ours = [COUNT.fullmatch(label) for label in found]
    if not all(theirs) or not all(ours) or all(GENERIC.fullmatch(name) for name in names):
        return None
    counts = [int(one[1]) for one in theirs if one]
    things = {_plain(one[2]).rstrip("s") for one in (*theirs, *ours) if one} - {""}
    own = [int(one[1]) for one in ours if one]
    if len({*counts}) < len(names) or len({*own}) < len(found) or len(things) > 1:
        return None
    if not {*own} <= {*counts}:
        return None
    return {label: counts.index(count) for label, count in zip(found, own, strict=True)}


def _from_one(names: tuple[str, ...], found: Sequence[str]) -> dict[str, int] | None:
    """Numbers of which the largest is that of the classes, and none is 0."""
    if any(name.isdecimal() for name in names):
        return None
    ids = {label: int(label.partition(".")[0]) - 1 for label in found if WHOLE.fullmatch(label)}
    whole = len(ids) == len(found) and bool(ids)
    return ids if whole and min(ids.values()) >= 0 and max(ids.values()) < len(names) else None


def _by_truth(names: tuple[str, ...], found: Sequence[str]) -> dict[str, int] | None:
    """False and true, as pandas and JSON write a column of two classes."""
    ids = {label: TRUTH[label.lower()] for label in found if label.lower() in TRUTH}
    if len(ids) < len(found) or len({*ids.values()}) < len(ids) or len(names) != len(TRUTH):
        return None
    first, second = map(_plain, names)
    if first.startswith(YES) or second.startswith(NO):  # or they may be the other way round
        return None
    return {label: names.index(str(i)) if str(i) in names else i for label, i in ids.items()}


OTHER_RULES = {
    _by_number: "",
    _by_count: "by their numbers",
    _from_one: "as counted from 1",
    _by_truth: "as no and yes",
}
"""Rules for labels that are no names of classes, in their order, and what is said of each."""


def _read_as(how: str, names: Sequence[str], ids: Mapping[str, int]) -> list[str]:
    """A sentence on which class each label is; none where that goes without saying."""
    if not how:
        return []
    shown = list(ids.items())[:SHOWN]
    pairs = ", ".join(f"{label} as {names[index]}" for label, index in shown)
    return [f"Labels are matched {how}: {pairs}{', …' if len(ids) > SHOWN else ''}."]


def _plain(name: str) -> str:
    return re.sub(r"[-_\s]+", "", name.casefold())


def _shown(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:SHOWN])) + (", …" if len(names) > SHOWN else "")
