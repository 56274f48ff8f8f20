"""Fisher importance against one example at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import BertForSequenceClassification

from axsearch.approximations.choices import Kept
from axsearch.approximations.site import SiteId
from axsearch.calibration.importance import (
    PATH,
    Importance,
    fisher_importance,
    gate_slopes,
    importance_along_path,
)
from axsearch.models.base_model import Base
from axsearch.models.weights import shrink
from axsearch.space.recipe import Recipe
from axsearch.tasks.kinds import task_kinds
from axsearch.tasks.kinds.sequences import encode
from axsearch.tasks.split import Split
from axsearch.testing.models import random_model
from axsearch.testing.text import reviews, tiny_bert, tiny_tokenizer

COUNT, HEADS, NEURONS = 70, 4, 64


def split() -> Split:
    rows = reviews(COUNT, seed=5)
    inputs = encode(tiny_tokenizer(), [(text,) for text, _ in rows], 48)
    return Split("calibration", inputs, np.array([label for _, label in rows]), pad_id=0)


SPLIT, KIND = split(), task_kinds()["text-classification"]


def slow_importance(model: BertForSequenceClassification) -> dict[SiteId, NDArray[np.float64]]:
    """The squared derivative by each unit's scale: the sum over its outputs of output times slope.

    One example at a time and unpadded, with hooks that only look.
    """
    seen: dict[SiteId, Tensor] = {}

    def look(site: SiteId) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            inputs[0].retain_grad()
            seen[site] = inputs[0]

        return hook

    handles = []
    for number, layer in enumerate(model.bert.encoder.layer):
        for site, dense in (
            (SiteId(number, "attention"), layer.attention.output.dense),
            (SiteId(number, "ffn"), layer.output.dense),
        ):
            handles.append(dense.register_forward_pre_hook(look(site)))
    scores: dict[SiteId, Any] = {}
    for example, label in zip(SPLIT.inputs, SPLIT.targets, strict=True):
        batch = {key: torch.tensor([values]) for key, values in example.items()}
        model(**batch, labels=torch.tensor([label])).loss.backward()
        for site, output in seen.items():
            count = HEADS if site.kind == "attention" else NEURONS
            assert output.grad is not None
            products = (output * output.grad).detach().double().unflatten(-1, (count, -1))
            slopes = products.sum((0, 1, 3)).numpy()
            scores[site] = scores.get(site, 0) + slopes**2
    for handle in handles:
        handle.remove()
    return scores


def test_equals_one_example_at_a_time() -> None:
    found = fisher_importance(Base(tiny_bert()), SPLIT, KIND).scores
    expected = slow_importance(tiny_bert())
    assert set(found) == set(expected)
    for site, scores in expected.items():
        assert scores.shape == (HEADS if site.kind == "attention" else NEURONS,)
        assert (scores > 0).all()
        np.testing.assert_allclose(found[site], scores, rtol=1e-3, atol=1e-12)


def test_layers_that_share_their_parameters_share_a_gate() -> None:
    # A score is the square of a sum over a group's runs, not of one of them or of each.
    model = random_model("albert", num_hidden_layers=4, num_hidden_groups=1)
    found = fisher_importance(Base(model), SPLIT, KIND).scores
    (group,) = model.albert.encoder.albert_layer_groups
    dense = {
        SiteId(0, "attention"): group.albert_layers[0].attention.dense,
        SiteId(0, "ffn"): group.albert_layers[0].ffn_output,
    }
    assert set(found) == set(dense)
    for site, module in dense.items():
        count = HEADS if site.kind == "attention" else NEURONS
        expected = np.zeros(count)
        for example, label in zip(SPLIT.inputs, SPLIT.targets, strict=True):
            seen: list[Tensor] = []
            with module.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.extend(inputs)):
                batch = {key: torch.tensor([values]) for key, values in example.items()}
                loss = model(**batch, labels=torch.tensor([label])).loss
            assert len(seen) == 4
            slopes = torch.autograd.grad(loss, seen)
            products = sum((x * s).double() for x, s in zip(seen, slopes, strict=True))
            assert isinstance(products, Tensor)
            expected += products.detach().unflatten(-1, (count, -1)).sum((0, 1, 3)).numpy() ** 2
        np.testing.assert_allclose(found[site], expected, rtol=1e-3, atol=1e-12)


def test_a_unit_without_effect_has_no_importance() -> None:
    model = tiny_bert()
    with torch.no_grad():
        model.bert.encoder.layer[1].attention.output.dense.weight[:, 16:24] = 0  # head 2
        model.bert.encoder.layer[2].output.dense.weight[:, 7] = 0
    importance = fisher_importance(Base(model), SPLIT, KIND)
    assert importance.scores[SiteId(1, "attention")][2] == 0
    assert importance.scores[SiteId(2, "ffn")][7] == 0
    assert importance.order(SiteId(1, "attention"))[0] == 2
    assert importance.order(SiteId(2, "ffn"))[0] == 7


def test_same_again() -> None:
    first, again = (fisher_importance(Base(tiny_bert()), SPLIT, KIND).to_dict() for _ in range(2))
    assert first == again


def test_base_is_as_it_was() -> None:
    model = tiny_bert()
    frozen = {"classifier.bias", "bert.embeddings.word_embeddings.weight"}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fisher_importance(Base(model), SPLIT, KIND)
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == frozen
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert not model.training


def test_base_is_as_it_was_after_a_failure() -> None:
    model = tiny_bert()
    impossible = Split("calibration", SPLIT.inputs, SPLIT.targets + 5, pad_id=0)
    with pytest.raises(IndexError, match="Target"):
        fisher_importance(Base(model), impossible, KIND)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_progress_is_told() -> None:
    done: list[int] = []
    fisher_importance(Base(tiny_bert()), SPLIT, KIND, on_batch=done.append)
    assert done == [32, 32, 6]


def test_order_is_least_important_first() -> None:
    site = SiteId(0, "attention")
    importance = Importance({site: np.array([0.3, 0.1, 0.1, 0.2])})
    assert importance.order(site) == (1, 2, 3, 0)


def test_plain_data_round_trip() -> None:
    importance = Importance({SiteId(11, "ffn"): np.array([0.1, 1e-300, 2.5e7])})
    again = Importance.from_dict(importance.to_dict())
    assert importance.to_dict() == {"scores": {"layer11.ffn": [0.1, 1e-300, 2.5e7]}, "orders": {}}
    assert again.to_dict() == importance.to_dict()
    assert again.order(SiteId(11, "ffn")) == (1, 0, 2)


def test_an_order_of_its_own_comes_before_the_scores() -> None:
    first, second = SiteId(0, "attention"), SiteId(1, "attention")
    scores = {first: np.array([0.3, 0.1]), second: np.array([0.3, 0.1])}
    again = Importance.from_dict(Importance(scores, {first: (0, 1)}).to_dict())
    assert (again.order(first), again.order(second)) == ((0, 1), (1, 0))


def test_squared_slopes_sum_to_the_scores() -> None:
    slopes = gate_slopes(Base(tiny_bert()), SPLIT, KIND)
    scores = fisher_importance(Base(tiny_bert()), SPLIT, KIND).scores
    assert set(slopes) == set(scores)
    for site, own in slopes.items():
        assert own.dtype == np.float32
        assert own.shape == (COUNT, HEADS if site.kind == "attention" else NEURONS)
        summed = np.square(own, dtype=np.float64).sum(0)
        np.testing.assert_allclose(summed, scores[site], rtol=1e-12)


def test_rows_of_slopes_are_in_the_splits_order() -> None:
    # Batches are not: they go by length.
    assert list(SPLIT.lengths) != sorted(SPLIT.lengths)
    slopes = gate_slopes(Base(tiny_bert()), SPLIT, KIND)
    for row in (0, 33, COUNT - 1):
        alone = Split("calibration", [SPLIT.inputs[row]], SPLIT.targets[[row]], pad_id=0)
        for site, own in gate_slopes(Base(tiny_bert()), alone, KIND).items():
            np.testing.assert_allclose(slopes[site][[row]], own, rtol=1e-3, atol=1e-6)


def test_counts_are_those_of_a_model_that_was_made_smaller() -> None:
    # A unit without effect can go without a change for the others.
    model, kept = tiny_bert(), {SiteId(1, "attention"): (0, 1, 3), SiteId(2, "ffn"): (*range(60),)}
    with torch.no_grad():
        model.bert.encoder.layer[1].attention.output.dense.weight[:, 16:24] = 0  # head 2
        model.bert.encoder.layer[2].output.dense.weight[:, 60:] = 0
    whole = fisher_importance(Base(model), SPLIT, KIND).scores
    small = shrink(
        model,
        Recipe.of(
            {
                SiteId(1, "attention"): {"heads": Kept(of=4, kept=kept[SiteId(1, "attention")])},
                SiteId(2, "ffn"): {"ffn": Kept(of=64, kept=kept[SiteId(2, "ffn")])},
            }
        ),
    )
    every = {site: tuple(range(len(scores))) for site, scores in whole.items()} | kept
    counts = {site: len(units) for site, units in every.items()}
    found = fisher_importance(Base(small), SPLIT, KIND, counts=counts).scores
    for site, units in every.items():
        np.testing.assert_allclose(found[site], whole[site][list(units)], rtol=1e-3, atol=1e-12)


def along_path(model: BertForSequenceClassification, made: list[Recipe]) -> Importance:
    def make(recipe: Recipe) -> Any:
        made.append(recipe)
        return shrink(model, recipe)

    return importance_along_path(Base(model), SPLIT, KIND, make, "none")


def test_along_the_path_every_unit_has_one_place() -> None:
    model, made = tiny_bert(), list[Recipe]()
    importance = along_path(model, made)
    sites = {id: site for id, site in Base(model).sites.items() if site.units is not None}
    assert set(importance.orders) == set(sites)
    for site_id, site in sites.items():
        assert sorted(importance.order(site_id)) == list(range(site.units.count))
    scores = fisher_importance(Base(model), SPLIT, KIND).scores
    assert all((importance.scores[site] == own).all() for site, own in scores.items())
    # Each model is the one before it with more gone, and what is gone comes first in the orders.
    total = sum(site.units.count * site.unit_parameters for site in sites.values())
    dearest = max(site.unit_parameters for site in sites.values())
    assert len(made) == len(PATH)
    for share, recipe in zip(PATH, made, strict=True):
        gone = 0
        for site_id, _, choice in recipe.choices():
            assert isinstance(choice, Kept)
            assert choice.kept
            count = choice.of - len(choice.kept)
            assert {*importance.order(site_id)[count:]} == {*choice.kept}
            gone += count * sites[site_id].unit_parameters
        assert share * total - dearest < gone <= share * total


def test_first_to_go_are_the_least_important_per_parameter() -> None:
    model, made = tiny_bert(), list[Recipe]()
    importance = along_path(model, made)
    sites = Base(model).sites
    worth = {
        (site_id, unit): score / sites[site_id].unit_parameters
        for site_id, scores in importance.scores.items()
        for unit, score in enumerate(scores)
    }
    gone = {
        (site_id, unit)
        for site_id, _, choice in made[0].choices()
        if isinstance(choice, Kept)
        for unit in set(range(choice.of)) - set(choice.kept)
    }
    assert gone
    assert max(worth[unit] for unit in gone) < min(worth[u] for u in worth if u not in gone)


def test_scores_along_the_path_are_those_of_the_smaller_models() -> None:
    model, made = tiny_bert(), list[Recipe]()
    importance = along_path(model, made)
    kept = {
        site_id: choice.kept
        for site_id, _, choice in made[-1].choices()
        if isinstance(choice, Kept)
    }
    every = {site: kept.get(site, tuple(range(len(s)))) for site, s in importance.scores.items()}
    counts = {site: len(units) for site, units in every.items()}
    last = fisher_importance(Base(shrink(model, made[-1])), SPLIT, KIND, counts=counts)
    for site, units in every.items():
        expected = tuple(units[place] for place in last.order(site))
        assert importance.order(site)[-len(units) :] == expected


def test_without_a_path_orders_are_those_of_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("axsearch.calibration.importance.PATH", ())
    made: list[Recipe] = []
    importance = along_path(tiny_bert(), made)
    assert made == []
    scores = Importance(importance.scores)
    assert all(importance.order(site) == scores.order(site) for site in importance.scores)


def test_progress_along_the_path_is_told() -> None:
    done: list[int] = []
    model = tiny_bert()
    importance_along_path(
        Base(model), SPLIT, KIND, lambda recipe: shrink(model, recipe), "none", on_batch=done.append
    )
    assert sum(done) == COUNT * (1 + len(PATH))
