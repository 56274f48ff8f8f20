"""Recipe: what a trial does to the base model, as plain, canonical, versioned data.

A recipe lists only the sites that differ from the base. At a site each approximation has at most
one choice, such as the heads that stay or the k of top-k attention. Recipes of the same model are
equal, because everything without an effect is dropped when a recipe is made: keeping every unit,
other choices for a block that is removed, a choice that is idle beside another one, and
compensation where no unit is left to make up for others (``sequential`` lets other blocks make up,
and stays where a layer's answers change), or where weights are trained.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
)

from axsearch import strict_json
from axsearch.approximations import approximations, choice_types
from axsearch.approximations.choices import Choice, Kept
from axsearch.approximations.site import OUTSIDE, SiteId, SiteKind
from axsearch.errors import UsageError

Compensation = Literal["none", "bias", "least_squares", "sequential"]

KEY = re.compile("[0-9a-f]{64}")
"""Of trained weights: the SHA-256 of what made them."""


class Recipe(BaseModel):
    """Everything a trial changes; frozen, hashable, equal where the model is the same.

    ``compensation`` says how the units that are left make up for those removed, see
    :mod:`axsearch.models.refit.compensation`. ``recovery`` is the key of the weights where they
    were trained after the cut (:mod:`axsearch.training.recovery`): files, which cannot be computed
    from the recipe.

    Example:
        >>> recipe = Recipe.of({SiteId(0, "attention"): {"heads": Kept(of=12, kept=(0, 3))}})
        >>> Recipe.from_json(recipe.to_json()) == recipe
        True
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: Literal[1] = 1
    sites: tuple[tuple[SiteId, tuple[tuple[str, Choice], ...]], ...] = ()
    compensation: Compensation = "none"
    recovery: str | None = None

    @classmethod
    def of(
        cls,
        sites: Mapping[SiteId, Mapping[str, Choice]],
        compensation: Compensation = "none",
        recovery: str | None = None,
    ) -> Recipe:
        """Make the canonical recipe of these choices, in any order."""
        canonical = []
        partial = False
        for site in sorted(sites):
            choices = _effective(sites[site])
            partial = partial or any(isinstance(c, Kept) and c.kept for c in choices.values())
            if choices:
                canonical.append((site, tuple(sorted(choices.items()))))
        # Sequentially, blocks above make up for one that is gone as a whole.
        every = [choice for _, own in canonical for _, choice in own]
        lossy = any(not one.lossless and one.vocabulary is None for one in every)
        of_use = recovery is None and (lossy if compensation == "sequential" else partial)
        used: Compensation = compensation if of_use else "none"
        return cls(sites=tuple(canonical), compensation=used, recovery=recovery)

    def recovered(self, key: str | None) -> Recipe:
        """The same choices with trained weights of this key; with None, those of a cut."""
        return Recipe.of({site: dict(choices) for site, choices in self.sites}, recovery=key)

    def at(self, layer: int, kind: SiteKind, stack: str = "") -> dict[str, Choice]:
        """The choices at one site; empty where the site is exact."""
        return dict(dict(self.sites).get(SiteId(layer, kind, stack), ()))

    def removed(self, layer: int, kind: SiteKind, stack: str = "") -> bool:
        """Whether the whole block at this site is removed."""
        return any(choice.removes for choice in self.at(layer, kind, stack).values())

    def choices(self) -> Iterable[tuple[SiteId, str, Choice]]:
        """Every choice, as (site, approximation, choice)."""
        for site, choices in self.sites:
            for name, choice in choices:
                yield site, name, choice

    @property
    def lossy(self) -> Recipe:
        """The recipe without the choices with which a model answers as without them."""
        sites = {
            site: {name: choice for name, choice in choices if not choice.lossless}
            for site, choices in self.sites
        }
        return Recipe.of(sites, self.compensation, self.recovery)

    @property
    def refitted(self) -> Recipe:
        """The recipe with those choices alone that the weights of layers depend on.

        Layers are refitted to the texts as the base reads them, whichever tokens stay.
        """
        sites = {
            site: {name: c for name, c in choices if not c.lossless and c.vocabulary is None}
            for site, choices in self.sites
        }
        return Recipe.of(sites, self.compensation)

    @property
    def vocabulary(self) -> tuple[int, ...] | None:
        """The tokens that stay where it makes the vocabulary smaller; None where it does not."""
        kept = (choice.vocabulary for _, _, choice in self.choices())
        return next((tokens for tokens in kept if tokens is not None), None)

    def with_lossless(self, earlier: Recipe) -> Recipe:
        """The recipe and those choices of an earlier one that change no answer."""
        sites = {site: dict(choices) for site, choices in self.sites}
        for site, name, choice in earlier.choices():
            if choice.lossless:
                sites.setdefault(site, {}).setdefault(name, choice)
        return Recipe.of(sites, self.compensation, self.recovery)

    def renumbered(self, layers: Sequence[int]) -> Recipe:
        """The same choices, where layer ``i`` has the number ``layers[i]``."""
        sites = {
            site._replace(layer=site.layer if site.layer == OUTSIDE else layers[site.layer]): dict(
                choices
            )
            for site, choices in self.sites
        }
        return Recipe.of(sites, self.compensation, self.recovery)

    def after(self, earlier: Recipe) -> Recipe:
        """The recipe with the effect of an earlier one and then this one.

        Layers have the same numbers in both; units are counted here as the earlier one leaves them,
        and in the result as the earlier one counts them. The compensation is that of the later one
        of the two that has any; weights that were trained before the last cut are not the model's.
        """
        sites = {site: dict(choices) for site, choices in earlier.sites}
        for site, name, choice in self.choices():
            before = sites.setdefault(site, {})
            before[name] = choice.after(before[name]) if name in before else choice
        ways = (self.compensation, earlier.compensation)
        last: Compensation = next((way for way in ways if way != "none"), "none")
        return Recipe.of(sites, last, self.recovery)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, as plain data."""
        sites = {
            str(site): {name: choice.to_dict() for name, choice in choices}
            for site, choices in self.sites
        }
        extra = {"compensation": self.compensation, "recovery": self.recovery}
        given = {name: value for name, value in extra.items() if value not in ("none", None)}
        return {"version": self.version, "sites": sites, **given}

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
            more = {"compensation", "recovery"}
            if not isinstance(data, dict) or set(data) - more != {"version", "sites"}:
                raise ValueError(
                    "a recipe has the keys 'version' and 'sites', and may have 'compensation' and "
                    "'recovery'"
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
            trained = data.get("recovery")
            if "recovery" in data and not (isinstance(trained, str) and KEY.fullmatch(trained)):
                raise ValueError("recovery is not the SHA-256 of what made the weights")
            sites: dict[SiteId, dict[str, Choice]] = {}
            for key, choices in _object("sites", data["sites"]).items():
                sites[SiteId.parse(key)] = {
                    name: _choice(f"{key}, {name!r}", name, choice)
                    for name, choice in _object(key, choices).items()
                }
            recipe = cls.of(sites, compensation, trained)
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


EXACT = Recipe.of({})
"""The recipe of the base itself, which makes no choices."""


def _effective(choices: Mapping[str, Choice]) -> dict[str, Choice]:
    """The choices at a site without those that have no effect."""
    own = {name: choice for name, choice in choices.items() if not choice.exact}
    known = approximations()
    removing = {name: choice for name, choice in own.items() if choice.removes}
    return removing or {
        name: choice
        for name, choice in own.items()
        if name not in known
        or not known[name].idle(choice, {n: c for n, c in own.items() if n != name})
    }


def _choice(where: str, name: str, value: Any) -> Choice:
    data = _object(where, value)
    if name not in choice_types():
        raise ValueError(
            f"{where} is of a type that this axsearch does not know; it knows "
            f"{', '.join(choice_types())}"
        )
    try:
        return approximations()[name].choice_type.from_dict(data)
    except ValidationError as error:
        first = error.errors()[0]
        reason = first["msg"].removeprefix("Value error, ")
        raise ValueError(": ".join([where, *map(str, first["loc"]), reason])) from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _object(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is not an object")
    return value
