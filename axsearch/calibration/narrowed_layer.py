"""The time of a last layer that computes only what the head reads."""

from __future__ import annotations

from collections.abc import Mapping

from axsearch.approximations import removal
from axsearch.approximations.choices import Choice, Kept
from axsearch.approximations.site import SiteId
from axsearch.calibration.block_fit import Shapes
from axsearch.space.genome import SearchSpace
from axsearch.space.recipe import Recipe

EXACT_BLOCKS = ""
"""The key of a narrowed last layer whose blocks are exact."""


def narrowing_of(space: SearchSpace) -> dict[SiteId, dict[str, Choice]]:
    """The choice of a space that narrows the last layer, at its site; empty where there is none."""
    found = [d for d in space.dimensions if d.approximation.narrows]
    return {site: dict([choice]) for d in found for site, choice in d.choices(1).items()}


def narrowed(recipe: Recipe, space: SearchSpace) -> Recipe:
    """The recipe with the last layer narrowed, where a space can do that."""
    sites = {site: dict(choices) for site, choices in recipe.sites}
    return Recipe.of({**sites, **narrowing_of(space)}, recipe.compensation)


def narrowed_models(space: SearchSpace, there: Shapes, last: int) -> dict[str, Recipe]:
    """The models to time, by the shape that one block of the last layer has in them.

    Those are the exact shape, and for each kind of block its removal and the fewest units. What
    lies between is interpolated: the layer takes a small part of a pass.

    Args:
        space: of the study; there are no models where it cannot narrow the last layer.
        there: the shapes of the blocks of the last layer.
        last: its number.
    """
    if not narrowing_of(space):
        return {}
    found = {EXACT_BLOCKS: narrowed(Recipe.of({}), space)}
    for kind, own in there.items():
        counts = {key: choice for key, choices in own.items() if (choice := units_of(choices))}
        for key in sorted(counts, key=lambda key: len(counts[key].kept))[:2]:
            recipe = Recipe.of({SiteId(last, kind): dict(own[key])})
            found[key] = narrowed(recipe, space)
    return found


def narrowed_shares(there: Shapes, times: Mapping[str, float]) -> dict[str, float]:
    """The share of each shape that was timed, and of each kind's exact block.

    A block takes what its removal saves, and an equal part of the rest.

    Args:
        there: the shapes of the blocks of the last layer.
        times: of the layer, as shares of the base's pass, by the keys of :func:`narrowed_models`.
    """
    kinds = [kind for kind in there if removal(kind) is not None]
    whole = times[EXACT_BLOCKS]
    saved = {
        kind: {
            key: min(max(whole - times[key], 0.0), whole)
            for key, choices in there[kind].items()
            if key in times and units_of(choices)
        }
        for kind in kinds
    }
    most = {kind: max(own.values(), default=0.0) for kind, own in saved.items()}
    scale = min(1.0, whole / sum(most.values())) if sum(most.values()) else 1.0
    rest = (whole - scale * sum(most.values())) / max(len(kinds), 1)
    shares = {}
    for kind in kinds:
        exact = rest + scale * most[kind]
        shares[kind] = exact
        shares |= {key: exact - scale * share for key, share in saved[kind].items()}
    return shares


def units_of(choices: Mapping[str, Choice]) -> Kept | None:
    """What a shape keeps that keeps some of its units and does nothing else."""
    (choice, *others) = choices.values() or (None,)
    return choice if isinstance(choice, Kept) and not others else None
