"""Sequentially refitted weights: what least squares can undo, and what stays as it was."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from axsearch.approximations.choices import Kept, Setting
from axsearch.approximations.site import SiteId
from axsearch.errors import UsageError
from axsearch.models.base_model import Base
from axsearch.models.refit.sample import Sample
from axsearch.models.refit.sequential import RIDGE, SequentialRefit
from axsearch.models.refit.walk import Walk
from axsearch.models.weights import (
    ClosedForm,
    check_compensation,
    choose_compensation,
    shrink,
)
from axsearch.space.recipe import Recipe
from axsearch.system.memory import TensorCache
from axsearch.testing.models import PICTURES, padded_batch, random_model, tiny_model

FAMILIES = (
    "albert", "bert", "roberta", "distilbert", "electra", "mpnet", "deberta-v2", "gpt2",
    "modernbert", "vit",
)  # fmt: skip
KINDS = ("attention", "ffn")
ATTENTION, FFN = (SiteId(0, kind) for kind in KINDS)
UPPER_ATTENTION, UPPER_FFN = SiteId(1, "attention"), SiteId(1, "ffn")
TWIN = 5
"""The unit that computes what the unit 2 does."""


@functools.cache
def sample(model_type: str) -> Sample:
    """The padded batch, half of its examples a batch; later tokens count more than earlier ones."""
    whole, base = padded_batch(model_type), Base(tiny_model(model_type))
    batches = [{name: part[rows] for name, part in whole.items()} for rows in ([0], [1, 2])]
    length = 101 if model_type in PICTURES else whole["input_ids"].shape[1]
    masks = [
        batch.get("attention_mask", torch.ones(len(next(iter(batch.values()))), length)).bool()
        for batch in batches
    ]
    weights = [torch.linspace(0.5, 1.5, int(mask.sum())) for mask in masks]
    return Sample(batches, masks, dict.fromkeys(base.gates(base.model), weights))


def logits(model: PreTrainedModel, model_type: str) -> Tensor:
    with torch.no_grad():
        return model(**padded_batch(model_type)).logits


def kept(site: SiteId, *gone: int) -> dict[SiteId, dict[str, Any]]:
    name, of = ("heads", 4) if site.kind == "attention" else ("ffn", 64)
    return {site: {name: Kept(of=of, kept=tuple(set(range(of)) - set(gone)))}}


def recipe(*sites: Mapping[SiteId, dict[str, Any]], way: Any = "sequential") -> Recipe:
    return Recipe.of({site: choices for each in sites for site, choices in each.items()}, way)


def with_a_twin(model_type: str, site: SiteId, of: int) -> PreTrainedModel:
    """A model in which one unit of a site computes what the unit ``of`` does."""
    model = random_model(model_type)
    units = Base(model).sites[site].units
    assert units is not None
    state = model.state_dict()
    with torch.no_grad():
        for axis in units.axes[:-1]:
            tensor = state[axis.tensor]
            apart = tensor.movedim(axis.dim, 0).unflatten(0, (axis.parts, units.count, units.width))
            apart[:, TWIN if units.count > TWIN else 3] = apart[:, of]
    return model


class TestWhatAFitCanUndo:
    """Of two units that compute the same, one can make up for the other."""

    @pytest.mark.parametrize("site", [FFN, UPPER_FFN], ids=str)
    @pytest.mark.parametrize("model_type", FAMILIES)
    def test_a_neuron(self, model_type: str, site: SiteId) -> None:
        self.check(model_type, with_a_twin(model_type, site, 2), recipe(kept(site, TWIN)))

    @pytest.mark.parametrize("model_type", [f for f in FAMILIES if f != "mpnet"])
    def test_a_head(self, model_type: str) -> None:  # MPNet's heads differ in their position bias
        self.check(model_type, with_a_twin(model_type, ATTENTION, 2), recipe(kept(ATTENTION, 3)))

    def check(self, model_type: str, model: PreTrainedModel, smaller: Recipe) -> None:
        base = Base(model)
        fitted = SequentialRefit(base, lambda: sample(model_type), ridge=0.0)
        weights = ClosedForm(base, None, lambda: sample(model_type))
        weights._sequential = fitted
        wanted = logits(model, model_type)
        untouched = shrink(model, Recipe.of({s: dict(c) for s, c in smaller.sites}))
        lost = (logits(untouched, model_type) - wanted).abs().max()
        left = (logits(weights.shrink(smaller), model_type) - wanted).abs().max()
        assert lost > 1e-4
        assert left < 0.02 * lost


@pytest.mark.parametrize("model_type", FAMILIES)
def test_states_and_answers_come_nearer_to_those_of_the_base(model_type: str) -> None:
    model, gone = tiny_model(model_type), range(0, 64, 2)
    smaller = recipe(kept(ATTENTION, 0, 1), kept(FFN, *gone))
    taken = sample(model_type)
    if model_type == "vit":  # its head reads the first of 101 tokens, which is not to count least
        alike = [torch.ones_like(weights) for weights in taken.weights[FFN]]
        taken = replace(taken, weights=dict.fromkeys(taken.weights, alike))
    fitted = shrink(model, smaller, sample=taken)
    plain = shrink(model, recipe(kept(ATTENTION, 0, 1), kept(FFN, *gone), way="none"))
    for seen in (last_states, logits):
        wanted = seen(model, model_type)
        left, lost = ((seen(m, model_type) - wanted).square().mean() for m in (fitted, plain))
        assert left < 0.5 * lost


def last_states(model: PreTrainedModel, model_type: str) -> Tensor:
    """(tokens, hidden), of tokens that are no padding."""
    parts, taken = [], sample(model_type)
    with torch.no_grad():
        for batch, mask in zip(taken.batches, taken.masks, strict=True):
            parts.append(model(**batch, output_hidden_states=True).hidden_states[-1][mask])
    return torch.cat(parts)


def by_hand(site: SiteId, x: Any, error: Any) -> Any:
    """The change and shift of the affine map of x that is closest to an error, by numpy."""
    weights = np.concatenate([w.double().numpy() for w in sample("bert").weights[site]])
    weights /= weights.sum()
    centre, middle = weights @ x, weights @ error
    variance = (weights @ (x - centre) ** 2).mean()
    root = np.sqrt(weights)[:, None]
    rows = np.vstack([root * (x - centre), np.sqrt(RIDGE * variance) * np.eye(x.shape[1])])
    right = np.vstack([root * (error - middle), np.zeros((x.shape[1], error.shape[1]))])
    change = np.linalg.lstsq(rows, right, rcond=None)[0]
    return change.T, middle - centre @ change


def passing(site: SiteId, model: PreTrainedModel, name: str, lost: int = 0) -> Any:
    """What a module of a BERT block receives on the sample, (tokens, width)."""
    layer, found = model.base_model.encoder.layer[site.layer - lost], []
    hook = layer.get_submodule(name).register_forward_pre_hook(
        lambda _, inputs: found.append(inputs[0])
    )
    with torch.no_grad():
        for batch in sample("bert").batches:
            model(**batch)
    hook.remove()
    masks = sample("bert").masks
    return np.vstack([t[m].double().numpy() for t, m in zip(found, masks, strict=True)])


class OutputsAlone(SequentialRefit):
    inputs = False


def own(name: str, smaller: Recipe) -> str:
    """The name that a tensor of the upper layer has in a smaller model."""
    whole = smaller.removed(*ATTENTION) and smaller.removed(*FFN)
    return name.replace("layer.1.", "layer.0.") if whole else name


GONE = {FFN: {"ffn": Kept(of=64, kept=())}}
PROJECTIONS = {
    "attention": (
        ["attention.self.query", "attention.self.key", "attention.self.value"],
        "attention.output",
    ),
    "ffn": (["intermediate.dense"], "output"),
}


@pytest.mark.parametrize(
    ("smaller", "fitted"),
    [
        (
            recipe(kept(ATTENTION, 1), GONE, kept(UPPER_FFN, *range(0, 64, 3))),
            [ATTENTION, UPPER_ATTENTION, UPPER_FFN],
        ),
        (recipe(GONE), [UPPER_ATTENTION, UPPER_FFN]),
        (recipe(GONE, {ATTENTION: {"heads": Kept(of=4, kept=())}}), [UPPER_ATTENTION, UPPER_FFN]),
        (recipe(kept(UPPER_FFN, *range(0, 64, 3))), [UPPER_FFN]),
    ],
    ids=["units and a block", "a block", "a layer", "units"],
)
def test_against_numpy(smaller: Recipe, fitted: list[SiteId]) -> None:
    """Each block's change, in the model in which the blocks below are already refitted.

    First that of the inputs, of all but the first block that is changed; then that of the outputs.
    """
    model, base = tiny_model("bert"), Base(tiny_model("bert"))
    cut = base.cut(smaller)
    found = SequentialRefit(base, lambda: sample("bert")).refits(smaller, cut)
    assert list(found) == fitted
    first = min(site for site, _, _ in smaller.choices())
    lost = 2 - len(base.shrink(smaller, cut).base_model.encoder.layer)
    so_far = dict(cut)

    def check(site: SiteId, module: str, change: Any, shift: Any) -> None:
        for name, by in ((f"{module}.weight", change), (f"{module}.bias", shift)):
            there = own(f"bert.encoder.layer.{site.layer}.{name}", smaller)
            new = found[site][name]
            np.testing.assert_allclose(new - so_far[there], by, atol=2e-4, rtol=1e-3)
            so_far[there] = new

    for site, tensors in found.items():
        inputs, output = PROJECTIONS[site.kind]
        taken = [] if site == first else inputs
        assert set(tensors) == {
            f"{module}.{name}"
            for module in (*taken, f"{output}.dense")
            for name in ("weight", "bias")
        }
        if taken:
            small = base.shrink(smaller, so_far)
            have, wanted = passing(site, small, taken[0], lost), passing(site, model, taken[0])
            change, shift = by_hand(site, have, wanted - have)
            assert np.abs(change).max() > 1e-3
            for module in taken:
                prefix = own(f"bert.encoder.layer.{site.layer}.{module}", smaller)
                weight = so_far[f"{prefix}.weight"].double().numpy()
                check(site, module, weight @ change, weight @ shift)
        small = base.shrink(smaller, so_far)
        have, wanted = (
            passing(site, of, f"{output}.LayerNorm", less)
            for of, less in ((small, lost), (model, 0))
        )
        x = passing(site, small, f"{output}.dense", lost)
        change, shift = by_hand(site, x, wanted - have)
        assert np.abs(change).max() > 1e-3
        check(site, f"{output}.dense", change, shift)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_input_projections_take_up_the_affine_map_of_what_they_receive(model_type: str) -> None:
    """The upper block has all its units, and a whole block is missing below."""
    model = tiny_model(model_type)
    base, smaller = Base(model), recipe({FFN: {"ffn": Kept(of=64, kept=())}})
    cut, blocks = base.cut(smaller), base.family.layout.blocks

    def fitted(kind: type[SequentialRefit]) -> tuple[PreTrainedModel, list[dict[str, Tensor]]]:
        found = kind(base, lambda: sample(model_type)).refits(smaller, cut)
        new = {
            f"{base.family.layer_prefix(model, site.layer)}{name}": tensor
            for site, tensors in found.items()
            for name, tensor in tensors.items()
        }
        return base.shrink(smaller, cut | new), [found[s] for s in (UPPER_ATTENTION, UPPER_FFN)]

    (both, changed), (plain, outputs) = fitted(SequentialRefit), fitted(OutputsAlone)
    for block, new, less in zip(blocks.values(), changed, outputs, strict=True):
        there = {name for name in block.inputs if ".pos_" not in name}  # of DeBERTa's positions
        assert {name.rpartition(".")[0] for name in new} == {*there, block.output}
        assert {name.rpartition(".")[0] for name in less} == {block.output}
    for name in {name.rpartition(".")[0] for name in changed[0]} - {blocks["attention"].output}:
        wanted = projected(model, model_type, name)
        fit, left = (
            (projected(small, model_type, name) - wanted).square().mean() for small in (both, plain)
        )
        assert fit < 0.7 * left


def test_projections_that_positions_pass_through_too_stay_as_they_are() -> None:
    """An affine map of a block's inputs is none of its embeddings of positions (DeBERTa-v3)."""
    model = random_model("deberta-v2", share_att_key=True)
    base, smaller = Base(model), recipe({FFN: {"ffn": Kept(of=64, kept=())}})
    refit = SequentialRefit(base, lambda: sample("deberta-v2"))
    new = refit.refits(smaller, base.cut(smaller))[UPPER_ATTENTION]
    assert {name.rpartition(".")[0] for name in new} == {
        "attention.self.value_proj", "attention.output.dense"
    }  # fmt: skip


def projected(model: PreTrainedModel, model_type: str, name: str) -> Tensor:
    """What a projection of the upper layer gives, (tokens, width)."""
    taken, found = sample(model_type), []
    layer = Base(tiny_model(model_type)).layers(model)[1]
    hook = layer.get_submodule(name).register_forward_hook(lambda _, __, out: found.append(out))
    with torch.no_grad():
        for batch in taken.batches:
            model(**batch)
    hook.remove()
    return torch.cat([out[mask] for out, mask in zip(found, taken.masks, strict=True)])


@pytest.mark.parametrize("model_type", FAMILIES)
def test_what_lies_below_the_first_change_is_untouched(model_type: str) -> None:
    base = Base(tiny_model(model_type))
    weights = ClosedForm(base, None, lambda: sample(model_type))
    state = weights.state(recipe(kept(UPPER_FFN, 0)))
    changed = {
        name
        for name, own in base.state.items()
        if own.shape != state[name].shape or not torch.equal(own, state[name])
    }
    units = base.sites[UPPER_FFN].units
    assert units is not None
    assert changed == {axis.tensor for axis in units.axes} | ({units.bias} - {None})


def test_a_block_that_is_gone_or_attends_otherwise_is_made_up_for_above() -> None:
    """Neither leaves a unit of its own that could be refitted."""
    model = tiny_model("bert")
    wanted = logits(model, "bert")
    for change in (
        {ATTENTION: {"heads": Kept(of=4, kept=())}},
        {ATTENTION: {"heads": Kept(of=4, kept=())}, FFN: {"ffn": Kept(of=64, kept=())}},
        {ATTENTION: {"topk": Setting(value=2, mode="hard")}},
    ):
        smaller = Recipe.of(change, "sequential")
        assert smaller.compensation == "sequential"
        fitted = logits(shrink(model, smaller, sample=sample("bert")), "bert")
        plain = logits(shrink(model, Recipe.of(change)), "bert")
        assert (fitted - wanted).abs().mean() < 0.5 * (plain - wanted).abs().mean()


class TestPrefixes:
    """Recipes that share their lower layers share what was computed for these."""

    FIRST = recipe(kept(ATTENTION, 1), kept(UPPER_FFN, 3))
    SECOND = recipe(kept(ATTENTION, 1), kept(UPPER_ATTENTION, 0, 2))

    @pytest.mark.parametrize(
        ("model_type", "more"),
        [*((family, {}) for family in FAMILIES), ("deberta-v2", {"share_att_key": True})],
    )
    def test_same_weights_as_without(self, model_type: str, more: dict[str, Any]) -> None:
        base = Base(random_model(model_type, **more))
        cached = SequentialRefit(base, lambda: sample(model_type))
        for smaller in (self.FIRST, self.SECOND, self.FIRST):
            found = cached.refits(smaller, base.cut(smaller))
            alone = SequentialRefit(base, lambda: sample(model_type), memory=0)
            for site, tensors in alone.refits(smaller, base.cut(smaller)).items():
                assert tensors.keys() == found[site].keys()
                assert all(torch.equal(found[site][name], own) for name, own in tensors.items())

    def test_what_was_kept_is_freed_and_made_again(self) -> None:
        base = Base(tiny_model("bert"))
        weights = ClosedForm(base, sample=lambda: sample("bert"))
        before = weights.state(self.FIRST)
        kept = weights._sequential
        assert kept is not None
        caches = (kept._base_layers, kept._outputs, kept._refits)
        assert any(len(cache) for cache in caches)
        weights.release()
        assert not any(len(cache) for cache in caches)
        after = weights.state(self.FIRST)
        assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())

    @pytest.mark.parametrize(
        ("layers", "again"), [(0, [0, 1, 2, 3]), (1, [1, 2, 3]), (2, []), (4, [])]
    )
    def test_layers_of_the_base_are_run_once_a_recipe(
        self, layers: int, again: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The lowest are in the cache, as many as it holds; the two run last are held, too."""
        run: list[int] = []
        seen = Walk.seen

        def counted(self: Any, number: int, *args: Any) -> Any:
            run.append(number)
            return seen(self, number, *args)

        monkeypatch.setattr(Walk, "seen", counted)
        base, few = Base(random_model("bert", num_hidden_layers=4)), sample("bert")
        weights = dict.fromkeys(base.gates(base.model), few.weights[FFN])
        taken = replace(few, weights=weights)
        cached = SequentialRefit(base, lambda: taken)
        smaller = recipe(*(kept(SiteId(n, kind), 0) for n in range(4) for kind in KINDS))
        whole = cached.refits(smaller, base.cut(smaller))
        assert run == [0, 1, 2, 3]
        size = max(TensorCache.getsizeof(cached._base_layer(n)) for n in range(4))
        partly = SequentialRefit(base, lambda: taken, memory=0)
        partly._base_layers = TensorCache(layers * size)
        for wanted in ([0, 1, 2, 3], again):
            run.clear()
            found = partly.refits(smaller, base.cut(smaller))
            assert run == wanted
            for site, tensors in whole.items():
                assert all(torch.equal(found[site][name], own) for name, own in tensors.items())

    def test_shared_layers_are_not_fitted_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fitted: list[SiteId] = []
        sums = Walk.sums

        def counted(self: Any, *args: Any) -> Any:
            fitted.append(args[-1])
            return sums(self, *args)

        monkeypatch.setattr(Walk, "sums", counted)
        base = Base(tiny_model("bert"))
        cached = SequentialRefit(base, lambda: sample("bert"))
        cached.refits(self.FIRST, base.cut(self.FIRST))
        assert fitted == [ATTENTION, UPPER_FFN]
        cached.refits(self.SECOND, base.cut(self.SECOND))
        assert fitted[2:] == [UPPER_ATTENTION]
        cached.refits(self.SECOND, base.cut(self.SECOND))
        assert len(fitted) == 3


def test_weights_are_those_that_a_file_of_the_base_keeps() -> None:
    base = Base(tiny_model("bert"), dtype=torch.bfloat16)
    state = ClosedForm(base, None, lambda: sample("bert")).state(recipe(kept(ATTENTION, 1)))
    units = base.sites[ATTENTION].units
    assert units is not None
    new = state[units.output.tensor]
    assert new.dtype == torch.float32
    assert not torch.equal(new, base.cut(recipe(kept(ATTENTION, 1)))[units.output.tensor])
    assert torch.equal(new, new.bfloat16().float())


@pytest.mark.parametrize(
    ("way", "needed"),
    [("none", []), ("bias", ["m"]), ("least_squares", ["m"]), ("sequential", ["s"])],
)
def test_only_what_a_compensation_needs_is_measured(way: Any, needed: list[str]) -> None:
    measured: list[str] = []
    weights = ClosedForm(
        Base(tiny_model("bert")),
        lambda: measured.append("m"),  # type: ignore[arg-type, func-returns-value]
        lambda: measured.append("s"),  # type: ignore[arg-type, func-returns-value]
    )
    weights.prepare(way)
    assert measured == needed


def test_without_data_it_is_refused() -> None:
    with pytest.raises(UsageError, match="'sequential', which needs calibration data"):
        shrink(tiny_model("bert"), recipe(kept(FFN, 1)))


def test_layers_that_share_their_weights_are_refused() -> None:
    model = random_model("albert", num_hidden_layers=2, num_hidden_groups=1)
    with pytest.raises(
        UsageError, match="share one set of weights, which cannot be fitted in turn"
    ):
        shrink(model, recipe(kept(FFN, 1)), sample=sample("bert"))
    with pytest.raises(UsageError, match=r"`compensation=\"sequential\"` cannot be used"):
        check_compensation("sequential", Base(model))
    check_compensation("sequential", Base(tiny_model("bert")))


def test_what_is_usual_gives_way_where_layers_share_their_weights() -> None:
    own, shared = Base(tiny_model("bert")), Base(random_model("albert", num_hidden_groups=1))
    assert choose_compensation(None, "sequential", own) == "sequential"
    assert choose_compensation(None, "sequential", shared) == "least_squares"
    for usual in ("none", "least_squares"):
        assert choose_compensation(None, usual, shared) == usual
        assert choose_compensation("sequential", usual, own) == "sequential"
    with pytest.raises(UsageError, match=r"`compensation=\"sequential\"` cannot be used"):
        choose_compensation("sequential", "sequential", shared)


def test_numbers_that_are_not_finite_are_left_to_the_evaluation() -> None:
    model = random_model("bert")
    with torch.no_grad():
        model.base_model.encoder.layer[0].output.dense.bias[0] = torch.inf
    base, smaller = Base(model), recipe(kept(FFN, 1))
    state = ClosedForm(base, None, lambda: sample("bert")).state(smaller)
    for name, tensor in base.cut(smaller).items():
        assert torch.equal(state[name], tensor)
    assert not torch.isfinite(logits(base.shrink(smaller, state), "bert")).all()


def test_blocks_without_a_loss_are_fitted_only_where_a_whole_block_is_missing_below() -> None:
    base = Base(tiny_model("bert"))
    fits = SequentialRefit(base, lambda: sample("bert")).fits
    every = (ATTENTION, FFN, UPPER_ATTENTION, UPPER_FFN)
    for smaller, wanted in (
        (recipe(kept(FFN, 1)), [FFN]),
        (recipe(GONE), [UPPER_ATTENTION, UPPER_FFN]),
        (recipe(kept(ATTENTION, 1), kept(UPPER_FFN, 2)), [ATTENTION, UPPER_FFN]),
        (recipe({UPPER_ATTENTION: {"topk": Setting(value=2, mode="hard")}}), [UPPER_ATTENTION]),
    ):
        assert [site for site in every if fits(smaller, site)] == wanted
