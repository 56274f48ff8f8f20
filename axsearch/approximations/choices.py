"""Choices: what a recipe does at a site, as plain, frozen data."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    field_serializer,
    field_validator,
    model_validator,
)

MOST_UNITS = 1 << 18
"""Units of a block, far more than any model has: its bit mask must fit into memory."""


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
