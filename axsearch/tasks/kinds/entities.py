"""The entities that tags of words mark, in any of the schemes that are in use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

OUTSIDE = "O"
PLACES = {
    "B": "B", "I": "I", "E": "E", "S": "S",
    "L": "E", "U": "S",  # BILOU
    "M": "I",  # BMES
}  # fmt: skip
"""The places of a word in an entity, in the schemes that are in use, as IOBES calls them."""


class Entity(NamedTuple):
    """A named entity: its type, and the positions of its first and its last word."""

    type: str
    start: int
    end: int


def entity_counts(gold: Sequence[str], predicted: Sequence[str]) -> tuple[int, int, int]:
    """How many entities are in both, with the same type and both ends; predicted; and in gold."""
    there, found = set(entities(gold)), set(entities(predicted))
    return len(there & found), len(found), len(there)


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities that tags mark, by the rules of CoNLL's evaluation, as seqeval's default does.

    The scheme may be IOB1, IOB2, IOBES, BILOU or BMES, and tags may be without a type. An entity
    begins at ``B`` or ``S``, after ``E`` or ``S``, and where the type changes, also from ``O``; it
    continues until another begins or ``O`` follows. What ``L``, ``U`` and ``M`` are in other
    schemes, ``E``, ``S`` and ``I`` are in IOBES.
    """
    found: list[Entity] = []
    before: tuple[str, str] | None = None
    for position, tag in enumerate(tags):
        own = placed(tag)
        if own is not None:
            place, kind = own
            if before is None or place in "BS" or before[0] in "ES" or before[1] != kind:
                found.append(Entity(kind, position, position))
            else:
                found[-1] = found[-1]._replace(end=position)
        before = own
    return found


def placed(tag: str) -> tuple[str, str] | None:
    """The place of a tag's word in its entity, as IOBES calls it, and the entity's type.

    The type is empty in tags without one. None for ``O``, and for what marks no entity.
    """
    place, dash, kind = tag.partition("-")
    return (PLACES[place], kind) if place in PLACES and bool(dash) == bool(kind) else None
