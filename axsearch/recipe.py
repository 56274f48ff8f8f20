"""Recipe: what a trial does to the base model, as plain, canonical, versioned data.

A recipe lists only the sites that differ from the base. At a site, each approximation has one
choice: either the units it keeps (:class:`Kept`: heads, neurons) or a setting
(:class:`Setting`: top-k attention's k). Recipes that give the same model are equal, because what
has no effect is dropped when a recipe is made: keeping every unit, settings of a block that is
removed, a k that is no less than the neurons kept, and compensation where no unit is to make up
for another.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from axsearch import strict_json
from axsearch.errors import UsageError

SiteKind = Literal["attention", "ffn"]
Compensation = Literal["none", "bias", "least_squares"]

MOST_UNITS = 1 << 18
"""Units of a block, far more than any model has: its bit mask must fit into memory."""


class SiteId(NamedTuple):
    """One place of the base model that can be approximated: ``layer03.attention``."""

    layer: int
    kind: SiteKind

    def __str__(self) -> str:
        return f"layer{self.layer:02d}.{self.kind}"

    @classmethod
    def parse(cls, text: str) -> SiteId:
        """Read ``layer03.attention``; raises ValueError for anything else."""
        match = re.fullmatch(r"layer(\d{2,3})\.(attention|ffn)", text)
        if match is None:
            raise ValueError(f"{text!r} is not a site such as 'layer03.attention'")
        site = cls(int(match[1]), match[2])  # type: ignore[arg-type]
        if str(site) != text:
            raise ValueError(f"{text!r} is not how a site is written; use {str(site)!r}")
        return site


class Kept(BaseModel):
    """The units (heads, neurons) that stay, out of ``of``; none kept removes the whole block.

    In JSON ``kept`` is a list of indices or, above 64 units, the hexadecimal form of the bit mask
    whose bit ``i`` stands for unit ``i``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    of: Annotated[PositiveInt, Field(le=MOST_UNITS)]
    kept: tuple[int, ...]

    @field_validator("kept", mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        if isinstance(value, str):
            if not re.fullmatch(r"[0-9a-f]+", value) or len(value) > MOST_UNITS // 4:
                raise ValueError(
                    f"a bit mask is lower-case hexadecimal, of {MOST_UNITS // 4} digits at most"
                )
            bits = reversed(f"{int(value, 16):b}")
            return tuple(i for i, bit in enumerate(bits) if bit == "1")
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _in_range(self) -> Kept:
        if tuple(sorted(set(self.kept))) != self.kept:
            raise ValueError("kept indices must be distinct and ascending")
        if self.kept and not 0 <= self.kept[0] <= self.kept[-1] < self.of:
            raise ValueError(f"kept indices must lie in 0..{self.of - 1}")
        return self

    @field_serializer("kept")
    def _write(self, kept: tuple[int, ...]) -> list[int] | str:
        if self.of <= 64:
            return list(kept)
        bits = bytearray(b"0" * self.of)
        for i in kept:
            bits[-1 - i] = ord("1")
        return format(int(bits, 2), "x")

    @property
    def exact(self) -> bool:
        """Whether every unit stays."""
        return len(self.kept) == self.of


class Setting(BaseModel):
    """A choice that removes nothing: ``value`` (k of top-k attention) and how it is applied."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    value: PositiveInt
    mode: Annotated[str, Field(pattern=r"^[a-z_]+$", max_length=32)]


Choice = Kept | Setting


class Recipe(BaseModel):
    """Everything a trial changes; frozen, hashable, equal when it gives the same model.

    ``compensation`` says how the units that are left make up for those that are gone, see
    :mod:`axsearch.compensation`.

    Example:
        >>> recipe = Recipe.of({SiteId(0, "attention"): {"heads": Kept(of=12, kept=(0, 3))}})
        >>> Recipe.from_json(recipe.to_json()) == recipe
        True
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: Literal[1] = 1
    sites: tuple[tuple[SiteId, tuple[tuple[str, Choice], ...]], ...] = ()
    compensation: Compensation = "none"

    @classmethod
    def of(
        cls,
        sites: Mapping[SiteId, Mapping[str, Choice]],
        compensation: Compensation = "none",
    ) -> Recipe:
        """Make the canonical recipe of these choices, in any order."""
        canonical = []
        partial = False
        for site in sorted(sites):
            choices = {
                n: c for n, c in sites[site].items() if not (isinstance(c, Kept) and c.exact)
            }
            removed: dict[str, Choice] = {
                n: c for n, c in choices.items() if isinstance(c, Kept) and not c.kept
            }
            kept = [len(c.kept) for c in choices.values() if isinstance(c, Kept)]
            if kept and site.kind == "ffn":  # a setting there is a number of neurons
                choices = {
                    n: c
                    for n, c in choices.items()
                    if not (isinstance(c, Setting) and c.value >= min(kept))
                }
            choices = removed or choices
            partial = partial or any(isinstance(c, Kept) and c.kept for c in choices.values())
            if choices:
                canonical.append((site, tuple(sorted(choices.items()))))
        return cls(sites=tuple(canonical), compensation=compensation if partial else "none")

    def at(self, layer: int, kind: SiteKind) -> dict[str, Choice]:
        """The choices at one site; empty where the site is exact."""
        return dict(dict(self.sites).get(SiteId(layer, kind), ()))

    def removed(self, layer: int, kind: SiteKind) -> bool:
        """Whether the whole block at this site is removed."""
        return any(isinstance(c, Kept) and not c.kept for c in self.at(layer, kind).values())

    def choices(self) -> Iterable[tuple[SiteId, str, Choice]]:
        """Every choice, as (site, approximation, choice)."""
        for site, choices in self.sites:
            for name, choice in choices:
                yield site, name, choice

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, as plain data."""
        sites = {
            str(site): {name: choice.model_dump(mode="json") for name, choice in choices}
            for site, choices in self.sites
        }
        extra = {} if self.compensation == "none" else {"compensation": self.compensation}
        return {"version": self.version, "sites": sites, **extra}

    def to_json(self) -> str:
        """Canonical JSON: one line, sorted keys."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @classmethod
    def from_dict(cls, data: Any, source: str = "the recipe") -> Recipe:
        """Read the JSON form; raises UsageError naming ``source`` where it is not a recipe."""
        try:
            if not isinstance(data, dict) or set(data) - {"compensation"} != {"version", "sites"}:
                raise ValueError(
                    "a recipe has the keys 'version' and 'sites', and may have 'compensation'"
                )
            if data["version"] != 1 or type(data["version"]) is not int:
                raise ValueError(
                    f"version {data['version']!r} is not 1, the one this axsearch reads"
                )
            compensation = data.get("compensation", "none")
            if compensation not in get_args(Compensation):
                raise ValueError(
                    f"compensation {compensation!r} is not one of "
                    f"{', '.join(get_args(Compensation))}"
                )
            sites: dict[SiteId, dict[str, Choice]] = {}
            for key, choices in _object("sites", data["sites"]).items():
                sites[SiteId.parse(key)] = {
                    name: _choice(f"{key}, {name!r}", choice)
                    for name, choice in _object(key, choices).items()
                }
            recipe = cls.of(sites, compensation)
        except (ValueError, TypeError) as error:
            raise UsageError(f"{source} is not a valid recipe: {error}.") from None
        except RecursionError:
            raise UsageError(f"{source} is not a valid recipe: it is nested too deeply.") from None
        return recipe

    @classmethod
    def from_json(cls, text: str, source: str = "the recipe") -> Recipe:
        """Read JSON text; raises UsageError naming ``source`` where it is not a recipe."""
        try:
            data = strict_json.loads(text)
        except ValueError as error:
            raise UsageError(f"{source} is not JSON: {error}.") from None
        return cls.from_dict(data, source)

    @classmethod
    def from_stored(cls, text: str, checksum: str) -> Recipe:
        """Read a recipe from the database; raises UsageError if it was edited there."""
        source = f"The stored recipe {checksum[:12]}"
        recipe = cls.from_json(text, source)
        if recipe.hash != checksum:
            raise UsageError(f"{source} was changed after it was stored: its checksum is another.")
        return recipe

    def write(self, path: Path) -> None:
        """Write the recipe with the checksum that :meth:`read` compares."""
        data = {**self.to_dict(), "sha256": self.hash}
        path.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n")

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read a recipe file; one written by hand may leave the checksum out.

        Raises UsageError naming the file when it is not a recipe or does not match its checksum.
        """
        try:
            data = strict_json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} cannot be read as a recipe: {error}.") from None
        by_hand = not isinstance(data, dict) or "sha256" not in data
        checksum = None if by_hand else data.pop("sha256")
        recipe = cls.from_dict(data, str(path))
        if not by_hand and checksum != recipe.hash:
            raise UsageError(f"{path} was changed after it was written: its checksum is another.")
        return recipe


def _choice(where: str, value: Any) -> Choice:
    data = _object(where, value)
    try:
        return (Kept if "kept" in data else Setting).model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        reason = first["msg"].removeprefix("Value error, ")
        raise ValueError(": ".join([where, *map(str, first["loc"]), reason])) from None


def _object(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is not an object")
    return value
