"""What every approximation promises; a new file in axsearch.approximations is tested, too."""

from __future__ import annotations

import itertools

import pytest
import torch
from families import LENGTH, padded_batch, tiny_model
from torch import Tensor

from axsearch.approximations import Approximation, Level, Site, approximations
from axsearch.architectures import architecture_of, architectures
from axsearch.evaluation.size import parameter_count
from axsearch.recipe import Recipe
from axsearch.surgery import shrink, sliced_state

BATCH = padded_batch()

EVERY = [
    pytest.param(model_type, approximation, id=f"{model_type}-{name}")
    for model_type, (name, approximation) in itertools.product(
        architectures(), approximations().items()
    )
]


def sites(model_type: str, approximation: Approximation) -> list[Site]:
    every = architecture_of(model_type).sites(tiny_model(model_type).config, LENGTH)
    return [site for site in every if site.id.kind == approximation.kind]


def order(site: Site) -> tuple[int, ...]:
    """Not the natural one, so that taking the first units is told from taking the best."""
    return tuple(reversed(range(site.units.count)))


def recipe_of(approximation: Approximation, site: Site, level: Level) -> Recipe:
    choice = approximation.choice(site, level, order(site))
    return Recipe.of({site.id: {approximation.name: choice}} if choice is not None else {})


def logits(model_type: str, recipe: Recipe) -> Tensor:
    with torch.no_grad():
        result: Tensor = shrink(tiny_model(model_type), recipe)(**BATCH).logits
    return result


@pytest.mark.parametrize(("model_type", "approximation"), EVERY)
class TestEveryApproximation:
    def test_is_described(self, model_type: str, approximation: Approximation) -> None:
        assert approximations()[approximation.name] is approximation
        assert approximation.name.isidentifier()
        assert approximation.summary
        assert type(approximation).__doc__
        assert sites(model_type, approximation)

    def test_exact_level_is_first_and_leaves_logits_unchanged(
        self, model_type: str, approximation: Approximation
    ) -> None:
        with torch.no_grad():
            base = tiny_model(model_type)(**BATCH).logits
        for site in sites(model_type, approximation):
            levels = approximation.levels(site)
            choices = [approximation.choice(site, level, order(site)) for level in levels]
            assert choices[0] is None
            assert None not in choices[1:]
            assert torch.equal(logits(model_type, recipe_of(approximation, site, levels[0])), base)

    def test_levels_go_from_exact_to_most_approximate(
        self, model_type: str, approximation: Approximation
    ) -> None:
        for site in sites(model_type, approximation):
            levels = approximation.levels(site)
            assert len(levels) > 1
            numbers = [float("inf") if level is None else level for level in levels]
            assert all(a > b >= 0 for a, b in itertools.pairwise(numbers))
            sizes = [
                parameter_count(
                    sliced_state(tiny_model(model_type), recipe_of(approximation, site, level))
                )
                for level in levels
            ]
            assert sizes == sorted(sizes, reverse=True)

    def test_every_other_level_changes_the_logits(
        self, model_type: str, approximation: Approximation
    ) -> None:
        for site in sites(model_type, approximation):
            found = [
                logits(model_type, recipe_of(approximation, site, level))
                for level in approximation.levels(site)
            ]
            for a, b in itertools.combinations(found, 2):
                assert not torch.allclose(a, b, atol=1e-6)

    def test_value_is_the_level(self, model_type: str, approximation: Approximation) -> None:
        for site in sites(model_type, approximation):
            for level in approximation.levels(site):
                choice = approximation.choice(site, level, order(site))
                assert approximation.value(site, choice) == level

    def test_recipe_round_trip(self, model_type: str, approximation: Approximation) -> None:
        for site in sites(model_type, approximation):
            recipes = [recipe_of(approximation, site, v) for v in approximation.levels(site)]
            for recipe in recipes:
                again = Recipe.from_json(recipe.to_json())
                assert again == recipe
                assert again.hash == recipe.hash
            assert len(set(recipes)) == len(recipes)

    def test_forward_and_backward_in_train_mode(
        self, model_type: str, approximation: Approximation
    ) -> None:
        base = tiny_model(model_type)
        site = sites(model_type, approximation)[-1]
        for level in approximation.levels(site):
            small = shrink(base, recipe_of(approximation, site, level)).train()
            small(**BATCH, labels=torch.tensor([0, 1, 0])).loss.backward()
            for name, parameter in small.named_parameters():
                assert parameter.grad is not None, name
                assert parameter.grad.isfinite().all(), name
        assert all(parameter.grad is None for parameter in base.parameters())

    def test_cut_leaves_other_sites_alone(
        self, model_type: str, approximation: Approximation
    ) -> None:
        site = sites(model_type, approximation)[0]
        own = {axis.tensor for axis in site.units.axes} | set(site.units.whole)
        for level in approximation.levels(site)[1:]:
            state = dict(tiny_model(model_type).state_dict())
            before = dict(state)
            choice = approximation.choice(site, level, order(site))
            assert choice is not None
            approximation.cut(site, choice, state)
            assert {n for n in before if n not in state or state[n] is not before[n]} <= own


def test_names_are_distinct_and_sorted() -> None:
    assert list(approximations()) == sorted(approximations())
    assert {"heads", "ffn", "topk"} <= set(approximations())
