"""Choices: what a recipe does at a site, as plain, frozen data.

A recipe writes a choice as ``{TYPE: {fields…}}``, TYPE being the name of the approximation that
owns it. ``version`` stands among the fields only where it is above 1, so recipes of the first
version keep their hashes.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    field_serializer,
    field_validator,
    model_validator,
)

MOST_UNITS = 1 << 20
"""The most units that a block, or tokens that a vocabulary may have, above any model's: a bit mask
must fit into memory."""

Level = int | None
"""The level of a choice: units kept, or k. None is the exact one where it has no number."""


class Choice(BaseModel):
    """What a recipe does at a site, as one approximation writes it.

    A subclass declares its fields; they are validated strictly and nothing else is accepted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: ClassVar[int] = 1
    lossless: ClassVar[bool] = False
    """Whether a model answers with it as without it, to rounding: there is nothing to make up
    for."""

    @property
    def exact(self) -> bool:
        """Whether the base stays as it is; a recipe leaves such a choice out."""
        return False

    @property
    def removes(self) -> bool:
        """Whether the whole block is removed, and with it all other choices for it."""
        return False

    @property
    @abstractmethod
    def level(self) -> Level:
        """The number that stands for the choice in tables and figures."""

    @property
    def shape(self) -> str:
        """What the time of its block depends on, as text without blanks."""
        return str(self.level)

    @property
    def vocabulary(self) -> tuple[int, ...] | None:
        """The ids of the tokens that stay, ascending, where the vocabulary is made smaller.

        Token i of the smaller model is the i-th of them, for its tokenizer as for its embeddings.
        """
        return None

    def joined(self, other: Self) -> Self:
        """The joint choice of two parameters of a genome for one site: the more approximate one."""
        return min(self, other, key=lambda choice: choice.level or 0)

    def after(self, earlier: Choice) -> Choice:
        """The choice that has the effect of both, made one after the other: the newer one holds."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, as plain data."""
        return {
            **self.model_dump(mode="json"),
            **({"version": self.version} if self.version > 1 else {}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read the JSON form.

        A new version of a choice overrides this to read the ones before it. Raises ValueError for
        another version, and pydantic's ValidationError for other fields.
        """
        version = data.get("version", 1)
        if version != cls.version or type(version) is not int:
            raise ValueError(
                f"version {version!r} is not {cls.version}, the one this axsearch reads"
            )
        return cls.model_validate({key: data[key] for key in data if key != "version"})


class Subset(Choice):
    """Those that stay, out of ``of``.

    In JSON ``kept`` is a list of indices or, above 64 units, the hexadecimal form of the bit mask
    whose bit ``i`` stands for unit ``i``.
    """

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
    def _in_range(self) -> Self:
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
        """Whether all stay."""
        return len(self.kept) == self.of

    @property
    def level(self) -> int:
        """How many stay."""
        return len(self.kept)

    def joined(self, other: Self) -> Self:
        """Those that both keep."""
        return type(self)(of=self.of, kept=tuple(sorted({*self.kept} & {*other.kept})))

    def after(self, earlier: Choice) -> Choice:
        """Those kept earlier that are kept again, as the original counts them."""
        if not isinstance(earlier, type(self)):
            return self
        return type(self)(of=earlier.of, kept=tuple(earlier.kept[one] for one in self.kept))


class Kept(Subset):
    """The units (heads, neurons) of a block that stay; none kept removes the whole block."""

    @property
    def removes(self) -> bool:
        """Whether no unit stays."""
        return not self.kept


class Setting(Choice):
    """A choice that removes nothing: ``value`` (k of top-k attention) and how it is applied."""

    value: PositiveInt
    mode: Annotated[str, Field(pattern=r"^[a-z_]+$", max_length=32)]

    @property
    def level(self) -> int:
        """The value."""
        return self.value

    @property
    def shape(self) -> str:
        """Value and mode, such as ``32.renormalised``."""
        return f"{self.value}.{self.mode}"
