"""Damage: what each choice alone does to the model's outputs, and how neighbours add up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from axsearch.evaluation.accuracy import NonFiniteError, Predictor
from axsearch.models.base_model import Base
from axsearch.space.genome import Dimension, SearchSpace
from axsearch.space.recipe import EXACT, Recipe
from axsearch.tasks.kinds import TaskKind
from axsearch.tasks.kinds.base import Answered
from axsearch.tasks.split import Split

EXAMPLES = 256
BROKEN = 20.0
"""The damage, in nats, of a choice that makes the model's numbers overflow."""

LARGE = 12 * 384
"""Layers times hidden size above which fewer examples are run, and fewer levels: run in full, the
table of MPNet-base on short questions was not done after six minutes."""

FEWEST = 64
"""How many examples are run at least, however large the base is."""

MOST_LEVELS = 4
"""How many levels of a dimension are run at most where the base is large."""

PAIRED_SHARE = 0.5
"""Which level of a dimension stands for it when it is measured together with its neighbour."""


@dataclass(frozen=True)
class Damage:
    """Mean KL divergence from the base's outputs, in nats, on calibration examples.

    Attributes:
        alone: for each dimension that of each of its levels, all others exact, (levels,).
        together: for neighbouring dimensions ``a b`` how they add up. Divergence is quadratic in a
            small change of the outputs: with u and v the changes, ``|u + v|^2 = |u|^2 + |v|^2 +
            2 c |u| |v|``, c being the cosine of the angle between them; this is 2 c.
    """

    alone: Mapping[str, NDArray[np.float64]]
    together: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "alone": {name: levels.tolist() for name, levels in self.alone.items()},
            "together": dict(self.together),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Damage:
        """Read what :meth:`to_dict` wrote."""
        return cls({n: np.array(levels) for n, levels in data["alone"].items()}, data["together"])


def effort(base: Base) -> tuple[int, int | None]:
    """How many examples, and levels of a dimension, are run of a base; None for all levels."""
    size = len(base.layers(base.model)) * base.model.config.hidden_size
    if size <= LARGE:
        return EXAMPLES, None
    return max(FEWEST, EXAMPLES * LARGE // size), MOST_LEVELS


def calibration_sample(split: Split, examples: int = EXAMPLES) -> Split:
    """Examples of the calibration split, drawn, always the same ones."""
    drawn = np.random.default_rng(0).permutation(int(split.owners[-1]) + 1)
    return split.take(np.sort(drawn[:examples]))


class _Outputs:
    """The base's outputs on examples, by batch and one by one, and how far others are from them."""

    def __init__(self, kind: TaskKind[Any, Any]) -> None:
        self._kind = kind
        self._batches: dict[int, Tensor] = {}
        self._features: dict[int, Answered] = {}

    def keep(self, rows: NDArray[np.int64], logits: Tensor, targets: Tensor) -> None:
        self._batches[int(rows[0])] = logits
        self._features.update(zip(rows.tolist(), map(Answered, logits, targets), strict=True))

    def divergence(
        self, rows: NDArray[np.int64], logits: Tensor, targets: Tensor, *, other_tokens: bool
    ) -> float:
        """The sum over a batch's features, whose texts may have been read as other tokens."""
        if not other_tokens:
            theirs = self._batches[int(rows[0])]
            return float(self._kind.divergence(logits, theirs, targets).sum())
        pairs = zip(map(Answered, logits, targets), rows.tolist(), strict=True)
        apart = [self._kind.divergence_apart(own, self._features[row]) for own, row in pairs]
        return float(torch.cat(apart).sum())


def measure_damage(
    base: Base,
    shrink: Callable[[Recipe], PreTrainedModel],
    space: SearchSpace,
    read: Callable[[Recipe], Split],
    predictor: Predictor,
    *,
    most: int | None = None,
    on_recipe: Callable[[int, int], None] | None = None,
) -> Damage:
    """Measure each level of each dimension alone, and each dimension with its neighbour.

    ``shrink`` makes the smaller model of a recipe, and ``read`` the examples as its tokenizer reads
    them. Of a dimension with more than ``most`` levels so many are run, the first and the last two
    among them, and those between are interpolated. Neighbours are dimensions of sites that follow
    one another in a forward pass. ``on_recipe`` receives the number of recipes so far and in all.
    """
    sample = read(EXACT)
    outputs = _Outputs(predictor.kind)
    predictor.run(base.model, sample, outputs.keep, base, EXACT)
    pairs = neighbours(space)
    lossy = [d for d in space.dimensions if not _is_lossless(d)]
    run = {d.name: _run(len(d.levels), most) for d in lossy}
    total = sum(map(len, run.values())) + len(pairs)
    done = 0

    def divergence(genome: Mapping[str, int]) -> float:
        nonlocal done
        recipe = space.recipe({**space.exact(), **genome})
        found = 0.0

        def compare(*seen: Any) -> None:
            nonlocal found
            found += outputs.divergence(*seen, other_tokens=recipe.vocabulary is not None)

        if recipe.sites:
            try:
                predictor.run(shrink(recipe), read(recipe), compare, base, recipe)
            except NonFiniteError:  # worse than anything that gives numbers
                found = BROKEN * len(sample)
        done += 1
        if on_recipe is not None:
            on_recipe(done, total)
        return max(found / len(sample), 0.0)

    alone = {
        d.name: _between(
            len(d.levels), run[d.name], [divergence({d.name: level}) for level in run[d.name]]
        )
        for d in lossy
    }
    alone |= {d.name: np.zeros(len(d.levels)) for d in space.dimensions if d not in lossy}
    return Damage(alone, _together(alone, pairs, divergence))


def _together(
    alone: Mapping[str, NDArray[np.float64]],
    pairs: Sequence[tuple[str, str]],
    divergence: Callable[[Mapping[str, int]], float],
) -> dict[str, float]:
    """How neighbours add up, see :class:`Damage`."""
    together: dict[str, float] = {}
    for first, second in pairs:
        levels = {name: _middle(alone[name]) for name in (first, second)}
        apart = [alone[name][level] for name, level in levels.items()]
        product = float(np.sqrt(apart[0] * apart[1]))
        both = divergence(levels)
        # 2 c lies in -2 … 2; a larger value would be another effect than that of the angle.
        found = (both - sum(apart)) / product if product > 0 else 0.0
        together[f"{first} {second}"] = float(np.clip(found, -2.0, 2.0))
    return together


def neighbours(space: SearchSpace) -> list[tuple[str, str]]:
    """Pairs of dimensions whose sites follow one another, of those that remove the most units.

    Each site is stood for by its dimension with the most levels.
    """
    order: dict[tuple[int, int], str] = {}
    levels: dict[tuple[int, int], int] = {}
    positions = {site.id: position for position, site in enumerate(space.sites)}
    for dimension in space.dimensions:
        if _is_lossless(dimension) or dimension.approximation.shared:
            continue
        for site in dimension.sites:
            place = (site.id.layer, positions[site.id])
            if len(dimension.levels) > levels.get(place, 0):
                order[place], levels[place] = dimension.name, len(dimension.levels)
    names = [order[place] for place in sorted(order)]
    return [(a, b) for a, b in pairwise(names) if a != b]


def _run(levels: int, most: int | None) -> list[int]:
    """The levels, of all but the exact one, that are run.

    The last one often takes a whole block, which the one before it says nothing about.
    """
    if most is None or levels - 1 <= most:
        return list(range(1, levels))
    even = np.linspace(1, levels - 2, most - 1).round().astype(int)
    return [*map(int, even), levels - 1]


def _between(levels: int, run: Sequence[int], found: Sequence[float]) -> NDArray[np.float64]:
    """The damage of all levels, from that of some.

    It is quadratic in what a level takes, so between two levels its root is taken to grow evenly.
    """
    damage = np.square(np.interp(np.arange(levels), [0, *run], np.sqrt([0.0, *found])))
    damage[list(run)] = found
    return damage


def _is_lossless(dimension: Dimension) -> bool:
    return dimension.approximation.choice_type.lossless


def _middle(levels: NDArray[np.float64]) -> int:
    return max(1, round(PAIRED_SHARE * (len(levels) - 1)))
