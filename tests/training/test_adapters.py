"""LoRA adapters in place of the layers' weights."""

from __future__ import annotations

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from axsearch.approximations.choices import Kept
from axsearch.approximations.site import SiteId
from axsearch.models.architectures import architecture_of, architectures
from axsearch.models.weights import shrink
from axsearch.space.recipe import Recipe
from axsearch.testing.models import random_model, random_recipe, short_batch
from axsearch.training.adapters import adapt, merge

RANK = 3


def logits(model: PreTrainedModel, kind: str) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model.eval()(**short_batch(kind)).logits
    return found


@pytest.mark.parametrize("kind", sorted(architectures()))
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_they_begin_as_nothing_and_are_merged_as_they_answer(kind: str, seed: int | None) -> None:
    model = random_model(kind)
    if seed is not None:
        model = shrink(model, random_recipe(kind, seed))
    layers = architecture_of(kind).layers(model)
    model.get_input_embeddings().requires_grad_(False)
    names = [name for name, _ in model.named_parameters()]
    given = {name: p.detach().clone() for name, p in model.named_parameters()}
    before = logits(model, kind)
    linear = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D)]
    inside_layers = {module for layer in layers for module in layer.modules()}
    adapt(model, layers, RANK)
    called: set[str] = set()  # some approximations read weights themselves
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            module.register_forward_hook(lambda *_, name=name: called.add(name))
    torch.testing.assert_close(logits(model, kind), before, rtol=0, atol=1e-6)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    inside = {id(p) for layer in layers for p in layer.parameters()}
    assert all("lora_" in name for name, p in trained.items() if id(p) in inside)
    assert all(RANK in p.shape for name, p in trained.items() if "lora_" in name)
    assert not any(p.requires_grad for p in model.get_input_embeddings().parameters())
    assert any("classifier" in name or "score" in name for name in trained)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in trained.items():
            if name.partition(".lora_B")[0] in called:
                parameter.normal_(std=0.1)
    changed = logits(model, kind)
    merge(model)
    after = dict(model.named_parameters())
    assert [*after] == names
    moved = {name for name in names if not after[name].equal(given[name])}
    assert moved == {f"{name}.weight" for name in called}
    if seed is None:  # all of them are
        assert called == {name for name, inner in linear if inner in inside_layers}
    assert not hasattr(model, "peft_config")
    torch.testing.assert_close(logits(model, kind), changed, rtol=0, atol=1e-5)


def test_where_every_block_was_removed_the_rest_is_trained() -> None:
    units = {"attention": ("heads", 4), "ffn": ("ffn", 64)}
    small = shrink(
        random_model("bert"),
        Recipe.of(
            {
                SiteId(layer, kind): {name: Kept(of=count, kept=())}
                for layer in (0, 1)
                for kind, (name, count) in units.items()
            }
        ),
    )
    layers = [*architecture_of("bert").layers(small)]
    assert not layers
    adapt(small, layers, RANK)
    assert all(parameter.requires_grad for parameter in small.parameters())
    merge(small)
