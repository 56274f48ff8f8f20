"""The contract of approximations: the tests that each of them passes in a family."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from axsearch.approximations import Approximation, approximations, recorded
from axsearch.approximations.choices import Choice, Kept, Setting
from axsearch.approximations.site import TokenUse
from axsearch.evaluation.size import parameter_count
from axsearch.models.base_model import Base
from axsearch.models.weights import shrink
from axsearch.space.genome import Dimension, SearchSpace
from axsearch.space.recipe import Recipe
from axsearch.testing.models import every_site, padded_batch, tensors_of, tiny_model

NEEDED = frozenset(range(8))
"""Tokens of the tiny models that always stay, those that pad among them."""


def dimensions(model_type: str, approximation: Approximation) -> tuple[Dimension, ...]:
    """Its parameters of a genome, part by part; units go in another order than their own, and
    tokens by counts that are made up.
    """
    sites = [
        replace(site, token_use=TokenUse(tuple(2 ** (n % 7) for n in range(site.rows)), NEEDED))
        if site.rows
        else site
        for site in every_site(model_type)
    ]
    orders = {site.id: tuple(reversed(range(site.count))) for site in sites}
    return SearchSpace(sites, orders, names=[approximation.name]).dimensions


def recipe_of(dimension: Dimension, index: int) -> Recipe:
    """The recipe that sets a dimension to its level number ``index`` and leaves the rest exact."""
    return Recipe.of({site: dict([choice]) for site, choice in dimension.choices(index).items()})


def recipes(dimension: Dimension) -> list[Recipe]:
    """A recipe for each level of a dimension, the exact one first."""
    return [recipe_of(dimension, index) for index in range(len(dimension.levels))]


def logits(model_type: str, recipe: Recipe) -> Tensor:
    """The logits of the tiny model with a recipe for its padded batch, (rows, labels)."""
    with torch.no_grad():
        result: Tensor = shrink(tiny_model(model_type), recipe)(**read(model_type, recipe)).logits
    return result


def read(model_type: str, recipe: Recipe) -> dict[str, Tensor]:
    """The padded batch as a recipe's model reads it: a token that it lacks is the last one."""
    batch, tokens = padded_batch(model_type), recipe.vocabulary
    if tokens is None:
        return batch
    places = {token: place for place, token in enumerate(tokens)}
    ids = batch["input_ids"].clone().apply_(lambda token: places.get(token, len(tokens) - 1))
    return {**batch, "input_ids": ids}


class ApproximationContract:
    """The tests of one approximation in one family.

    A subclass sets both, by parameters or fixtures: ``approximation``, and ``model_type``, of which
    :mod:`axsearch.testing.models` can make a tiny model.
    """

    def test_is_described(self, model_type: str, approximation: Approximation) -> None:
        assert approximations()[approximation.name] is approximation
        assert approximation.name.isidentifier()
        assert approximation.summary
        assert type(approximation).__doc__
        assert approximation.kinds
        assert set(approximation.kinds) <= {site.id.kind for site in every_site(model_type)}
        assert isinstance(approximation.searched, bool)

    def test_a_recipe_knows_the_name_it_is_recorded_under(
        self, model_type: str, approximation: Approximation
    ) -> None:
        for kind in approximation.kinds:
            name = approximation.recorded(kind)
            assert recorded(kind)[name].name == name
            assert all(a.recorded(kind) == n for n, a in recorded(kind).items())
        for dimension in dimensions(model_type, approximation):
            for index in range(1, len(dimension.levels)):
                for site, (name, choice) in dimension.choices(index).items():
                    assert name == approximation.recorded(site.kind)
                    (there,) = (one for one in dimension.sites if one.id == site)
                    assert recorded(site.kind)[name].misfit(there, choice) is None

    def test_exact_level_is_first_and_leaves_logits_unchanged(
        self, model_type: str, approximation: Approximation
    ) -> None:
        with torch.no_grad():
            base = tiny_model(model_type)(**padded_batch(model_type)).logits
        for dimension in dimensions(model_type, approximation):
            assert not dimension.choices(0)
            assert recipe_of(dimension, 0) == Recipe.of({})
            assert torch.equal(logits(model_type, recipe_of(dimension, 0)), base)
            for index in range(1, len(dimension.levels)):
                assert set(dimension.choices(index)) == {site.id for site in dimension.sites}

    def test_levels_go_from_exact_to_most_approximate(
        self, model_type: str, approximation: Approximation
    ) -> None:
        for dimension in dimensions(model_type, approximation):
            assert len(dimension.levels) > 1
            for site in dimension.sites:  # those set together have a level each
                levels = approximation.levels(site, dimension.part)
                assert len(levels) == len(dimension.levels)
                numbers = [float("inf") if level is None else level for level in levels]
                assert all(a > b >= 0 for a, b in itertools.pairwise(numbers))
            sizes = [
                parameter_count(Base(tiny_model(model_type)).cut(recipe))
                for recipe in recipes(dimension)
            ]
            assert sizes == sorted(sizes, reverse=True)
            if approximation.choice_type is Kept:
                assert len(set(sizes)) == len(sizes)
            else:
                assert (len(set(sizes)) > 1) is approximation.cuts

    def test_every_other_level_is_another_model(
        self, model_type: str, approximation: Approximation
    ) -> None:
        every = recipes(dimensions(model_type, approximation)[0])
        found = [logits(model_type, recipe) for recipe in every]
        sizes = [parameter_count(Base(tiny_model(model_type)).cut(recipe)) for recipe in every]
        # Only other choices than units and a k, as of rows that no input needs, may save memory
        # and leave the answers as they are.
        may_agree = approximation.choice_type not in (Kept, Setting)
        for a, b in itertools.combinations(range(len(every)), 2):
            if approximation.choice_type.lossless:  # they agree to rounding, and only to that
                assert torch.allclose(found[a], found[b], atol=1e-5)
                assert not torch.equal(found[a], found[b])
                continue
            smaller = may_agree and sizes[a] != sizes[b]
            assert smaller or not torch.allclose(found[a], found[b], atol=1e-6)

    def test_value_is_the_level(self, model_type: str, approximation: Approximation) -> None:
        for dimension in dimensions(model_type, approximation):
            for site, order in zip(dimension.sites, dimension.orders, strict=True):
                for level in approximation.levels(site, dimension.part):
                    choice = approximation.choice(site, level, order, dimension.part)
                    assert approximation.value(site, choice) == level
                    name = approximation.recorded(site.id.kind)
                    assert recorded(site.id.kind)[name].value(site, choice) == level

    def test_parts_have_names_of_their_own(
        self, model_type: str, approximation: Approximation
    ) -> None:
        found = dimensions(model_type, approximation)
        assert len({dimension.name for dimension in found}) == len(found)
        for site in found[0].sites:  # those set together have as many parts
            assert approximation.parts(site) == approximation.parts(found[0].sites[0])

    def test_recipe_round_trip(self, model_type: str, approximation: Approximation) -> None:
        for dimension in dimensions(model_type, approximation):
            for recipe in recipes(dimension):
                again = Recipe.from_json(recipe.to_json())
                assert again == recipe
                assert again.hash == recipe.hash
            assert len(set(recipes(dimension))) == len(dimension.levels)

    def test_forward_and_backward_in_train_mode(
        self, model_type: str, approximation: Approximation
    ) -> None:
        base = tiny_model(model_type)
        dimension = dimensions(model_type, approximation)[-1]
        for index in {*range(0, len(dimension.levels), 2), len(dimension.levels) - 1}:
            recipe = recipe_of(dimension, index)
            small = shrink(base, recipe).train()
            small(**read(model_type, recipe), labels=torch.tensor([0, 1, 0])).loss.backward()
            for name, parameter in small.named_parameters():
                assert parameter.grad is not None, name
                assert parameter.grad.isfinite().all(), name
        assert all(parameter.grad is None for parameter in base.parameters())

    def test_cut_leaves_other_sites_alone(
        self, model_type: str, approximation: Approximation
    ) -> None:
        site = dimensions(model_type, approximation)[0].sites[0]
        own = tensors_of(site)
        for level in approximation.levels(site)[1:]:
            state = dict(tiny_model(model_type).state_dict())
            before = dict(state)
            choice = approximation.choice(site, level, range(site.count))
            assert choice is not None
            kind = approximation.recorded(site.id.kind)
            recorded(site.id.kind)[kind].modeling.cut(site, choice.to_dict(), state)
            touched = {n for n in before if n not in state or state[n] is not before[n]}
            assert touched <= own
            assert bool(touched) is approximation.cuts

    def test_a_choice_of_another_form_does_not_fit(
        self, model_type: str, approximation: Approximation
    ) -> None:
        for site in dimensions(model_type, approximation)[0].sites:
            count = max(site.count, 1)  # of a site that has none
            units, setting = Kept(of=count, kept=(0,)), Setting(value=2, mode="soft")
            if approximation.choice_type is Setting:
                assert approximation.misfit(site, units) == "takes a k, not units to keep"
                assert "mode 'soft', not one of" in (approximation.misfit(site, setting) or "")
            elif approximation.choice_type is Kept:
                other = Kept(of=count + 1, kept=(0,))
                assert approximation.misfit(site, units) is None
                assert approximation.misfit(site, setting) == "takes units to keep, not a setting"
                assert f"for {count + 1} units" in (approximation.misfit(site, other) or "")
            else:
                others: Sequence[Choice] = (units, setting)
                assert all(approximation.misfit(site, other) for other in others)
