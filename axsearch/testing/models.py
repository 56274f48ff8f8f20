"""A tiny model of any family, for the contracts that run over every one of them."""

from __future__ import annotations

import functools
import random
from collections.abc import Collection, Iterable
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from axsearch.approximations import Approximation, TopK, UnitRemoval, recorded
from axsearch.approximations.choices import Choice, Kept, Setting
from axsearch.approximations.site import Site, SiteId
from axsearch.models.architectures import architecture_of
from axsearch.space.recipe import Recipe

LENGTH = 96  # above every k that the search tries
SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": LENGTH + 2,
}
OWN_SIZES: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 16, "num_hidden_groups": 2},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "conv_kernel_size": 3,
        "pooler_hidden_size": 32,
    },
    "distilbert": {"hidden_dim": 64},
    "electra": {"embedding_size": 16},
    "gpt2": {"n_inner": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1},
    "modernbert": {
        "local_attention": 16,
        "global_attn_every_n_layers": 2,
        "layer_types": ["full_attention", "sliding_attention"],
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 1,
        "cls_token_id": 1,
        "sep_token_id": 1,
    },
    "vit": {"image_size": 40, "patch_size": 4, "num_channels": 3},
}
PICTURES = ("vit",)


@functools.cache
def tiny_model(model_type: str, auto_class: str | None = None) -> PreTrainedModel:
    """The family's classifier, or another head; tests leave it as it is."""
    return random_model(model_type, auto_class)


def random_model(model_type: str, auto_class: str | None = None, **more: Any) -> PreTrainedModel:
    """A tiny model with random weights, biases and norms; ``more`` goes into its config."""
    sizes = {**SIZES, **OWN_SIZES.get(model_type, {}), **more}
    if model_type in PICTURES:
        for tokens in ("vocab_size", "max_position_embeddings"):
            sizes.pop(tokens)
    if auto_class is None:
        kind = "Image" if model_type in PICTURES else "Sequence"
        auto_class = f"AutoModelFor{kind}Classification"
    config = AutoConfig.for_model(model_type, **sizes)
    torch.manual_seed(0)
    attention = architecture_of(model_type).attention
    auto = getattr(transformers, auto_class)
    model: PreTrainedModel = auto.from_config(config, attn_implementation=attention)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.eval()
    return model


def padded_batch(model_type: str) -> dict[str, Tensor]:
    """Three rows of 96, 70 and 9 tokens; three random images for a vision model."""
    family, config = architecture_of(model_type), tiny_model(model_type).config
    batch = family.example(config, 3, LENGTH)
    if model_type in PICTURES:
        return batch
    pad = config.pad_token_id or 0
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    batch["attention_mask"][1, 70:] = 0
    batch["attention_mask"][2, 9:] = 0
    ids = family.example(config, 6, LENGTH)["input_ids"][:3]  # the first half is not padded
    return {
        "input_ids": ids.masked_fill(batch["attention_mask"] == 0, pad),
        "attention_mask": batch["attention_mask"],
    }


def short_batch(model_type: str) -> dict[str, Tensor]:
    """Three rows of 24, 17 and 5 tokens, for many runs; one image for a vision model."""
    batch = padded_batch(model_type)
    if model_type in PICTURES:
        return {name: tensor[:1] for name, tensor in batch.items()}
    lengths = torch.tensor([[24], [17], [5]])
    mask = (torch.arange(24) < lengths).long()
    pad = tiny_model(model_type).config.pad_token_id or 0
    ids = batch["input_ids"][:, :24]
    ids = torch.where(ids == pad, 7, ids)  # where the long rows end
    return {"input_ids": ids.masked_fill(mask == 0, pad), "attention_mask": mask}


@functools.cache
def every_site(model_type: str) -> tuple[Site, ...]:
    """The sites of the tiny model."""
    return architecture_of(model_type).sites(tiny_model(model_type), LENGTH)


def tensors_of(site: Site) -> set[str]:
    """The names of the tensors that hold its units, or go with all of them; those of its modules
    where it has no units.
    """
    if site.units is None:
        return {f"{module}.{name}" for module in site.modules for name in ("weight", "bias")}
    return {axis.tensor for axis in site.units.axes} | set(site.units.whole)


def random_recipe(model_type: str, seed: int, names: Collection[str] | None = None) -> Recipe:
    """Any mixture: units, blocks and layers removed, every k in every mode.

    Args:
        model_type: of the tiny model.
        seed: the same seed returns the same recipe in every process.
        names: the types of choices to draw from; all that there are if None.
    """
    return recipe_of_any(every_site(model_type), f"{model_type} {seed}", names)


def recipe_of_any(sites: Iterable[Site], seed: str, names: Collection[str] | None = None) -> Recipe:
    """The same for any sites, such as those of a model that was made smaller before."""
    draw = random.Random(seed)
    found: dict[SiteId, dict[str, Choice]] = {}
    for site in sites:
        choices: dict[str, Choice] = {}
        for name, approximation in recorded(site.id.kind).items():
            wanted = (names is None or name in names) and not site.refusal(approximation.needs)
            if wanted and draw.random() < (0.5 if isinstance(approximation, TopK) else 0.7):
                choice = _random_choice(site, approximation, draw)
                choices |= {} if choice is None else {name: choice}
        found[site.id] = choices
    return Recipe.of(found)


def _random_choice(site: Site, approximation: Approximation, draw: random.Random) -> Choice | None:
    units = range(site.count)
    if isinstance(approximation, UnitRemoval):
        number = 0 if draw.random() < 0.35 else draw.randint(1, len(units))
        return Kept(of=len(units), kept=tuple(sorted(draw.sample(units, number))))
    if isinstance(approximation, TopK):
        choice = Setting(value=draw.randint(1, 30), mode=draw.choice(approximation.modes))
        return None if approximation.misfit(site, choice) else choice
    first, *others = approximation.levels(site)
    levels = [first, *(level for level in others if approximation.further(site, level))]
    return approximation.choice(site, draw.choice(levels), units)
