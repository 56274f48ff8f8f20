"""What every model family promises; a new file in axsearch.architectures is tested, too."""

from __future__ import annotations

import functools

import pytest
import torch
from families import LENGTH, padded_batch, tiny_model
from torch import Tensor, nn

from axsearch.approximations import Site, UnitRemoval, approximations
from axsearch.architectures import Architecture, architecture_of, architectures
from axsearch.errors import UsageError
from axsearch.evaluation.size import parameter_count
from axsearch.recipe import Choice, Kept, Recipe, Setting
from axsearch.surgery import plan, shrink, sliced_state

BATCH = padded_batch()


def every_site(model_type: str) -> tuple[Site, ...]:
    return architecture_of(model_type).sites(tiny_model(model_type).config, LENGTH)


def remover(site: Site) -> str:
    """The approximation that removes this kind of site's units."""
    (name,) = [
        name
        for name, approximation in approximations().items()
        if isinstance(approximation, UnitRemoval) and approximation.kind == site.id.kind
    ]
    return name


def keeping(site: Site, *kept: int) -> Recipe:
    choice: Choice = Kept(of=site.units.count, kept=kept)
    return Recipe.of({site.id: {remover(site): choice}})


def others(site: Site, gone: int) -> tuple[int, ...]:
    return tuple(unit for unit in range(site.units.count) if unit != gone)


def gate_of(model_type: str, site: Site) -> nn.Module:
    heads, neurons = architecture_of(model_type).gates(tiny_model(model_type))[site.id.layer]
    return heads if site.id.kind == "attention" else neurons


def close_gate(
    unit: int, count: int, module: nn.Module, inputs: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    hidden = inputs[0].unflatten(-1, (count, -1)).clone()
    hidden[..., unit, :] = 0
    return (hidden.flatten(-2), *inputs[1:])


@pytest.mark.parametrize("model_type", architectures())
class TestEveryArchitecture:
    def test_is_found_by_each_of_its_model_types(self, model_type: str) -> None:
        family = architecture_of(model_type)
        assert isinstance(family, Architecture)
        assert model_type in family.model_types
        assert tiny_model(model_type).config.model_type == model_type

    def test_sites_are_an_attention_and_an_ffn_a_layer(self, model_type: str) -> None:
        layers = architecture_of(model_type).layers(tiny_model(model_type))
        assert [site.id for site in every_site(model_type)] == [
            (layer, kind) for layer in range(len(layers)) for kind in ("attention", "ffn")
        ]
        assert all(site.length == LENGTH for site in every_site(model_type))

    def test_tensor_names_exist_and_hold_the_units(self, model_type: str) -> None:
        state = tiny_model(model_type).state_dict()
        family = architecture_of(model_type)
        for site in every_site(model_type):
            units = site.units
            assert units.axes
            for axis in units.axes:
                assert axis.tensor.startswith(family.layer_prefix(site.id.layer))
                size = state[axis.tensor].shape[axis.dim]
                assert size == axis.parts * units.count * units.width
            assert set(units.whole) <= set(state)

    def test_layer_prefix_covers_the_layer(self, model_type: str) -> None:
        model, family = tiny_model(model_type), architecture_of(model_type)
        for number, layer in enumerate(family.layers(model)):
            prefix = family.layer_prefix(number)
            assert prefix.endswith(".")
            found = {n.removeprefix(prefix) for n in model.state_dict() if n.startswith(prefix)}
            assert found == set(layer.state_dict())

    def test_predicted_parameter_counts_match(self, model_type: str) -> None:
        base = tiny_model(model_type)
        state = base.state_dict()
        for site in every_site(model_type):
            one = parameter_count(sliced_state(base, keeping(site, *others(site, 0))))
            assert parameter_count(state) - one == site.unit_parameters
            block = shrink(base, keeping(site))
            removed = parameter_count(state) - sum(p.numel() for p in block.parameters())
            whole = sum(state[name].numel() for name in site.units.whole)
            assert removed == site.units.count * site.unit_parameters + whole

    def test_removing_a_unit_is_closing_its_gate(self, model_type: str) -> None:
        base = tiny_model(model_type)
        for site in every_site(model_type):
            count = site.units.count
            for unit in range(0, count, max(1, count // 8)):
                small = shrink(base, keeping(site, *others(site, unit)))
                handle = gate_of(model_type, site).register_forward_pre_hook(
                    functools.partial(close_gate, unit, count)
                )
                with handle, torch.no_grad():
                    masked = base(**BATCH).logits
                with torch.no_grad():
                    torch.testing.assert_close(small(**BATCH).logits, masked, rtol=0, atol=1e-5)

    def test_any_set_of_layers_can_stay(self, model_type: str) -> None:
        base, family = tiny_model(model_type), architecture_of(model_type)
        sites = every_site(model_type)
        for gone in ([0], [len(sites) // 2 - 1], list(range(len(sites) // 2))):
            recipe = Recipe.of(
                {
                    site.id: {remover(site): Kept(of=site.units.count, kept=())}
                    for site in sites
                    if site.id.layer in gone
                }
            )
            small = shrink(base, recipe)
            left = len(sites) // 2 - len(gone)
            assert len(family.layers(small)) == small.config.num_hidden_layers == left
            with torch.no_grad():
                assert small(**BATCH).logits.isfinite().all()

    def test_exported_classes_have_the_searched_shapes(self, model_type: str) -> None:
        base, family = tiny_model(model_type), architecture_of(model_type)
        first, second, third, fourth = every_site(model_type)[:4]
        recipe = Recipe.of(
            {
                first.id: {
                    remover(first): Kept(of=first.units.count, kept=(1, 3)),
                    "topk": Setting(value=4, mode="hard"),
                },
                second.id: {remover(second): Kept(of=second.units.count, kept=(0, 5, 9))},
                third.id: {remover(third): Kept(of=third.units.count, kept=())},
                fourth.id: {remover(fourth): Kept(of=fourth.units.count, kept=(2,))},
            }
        )
        wanted = plan(base, recipe)
        settings = base.config.to_dict() | {
            "num_hidden_layers": len(wanted.layers),
            "axsearch": {"layers": wanted.shapes},
        }
        settings.pop("model_type")
        opened = family.exported["text-classification"](family.config_class(**settings))
        opened.load_state_dict(sliced_state(base, recipe))
        with torch.no_grad():
            expected = shrink(base, recipe)(**BATCH).logits
            torch.testing.assert_close(opened.eval()(**BATCH).logits, expected, rtol=0, atol=1e-6)


def test_unsupported_family_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError) as refused:
        architecture_of("gpt2")
    assert "'gpt2'" in str(refused.value)
    for model_type in architectures():
        assert model_type in str(refused.value)
