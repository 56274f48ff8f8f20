"""Open the folder of an ``hf`` export without running the code that it contains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel

from axsearch.approximations.modeling import Layout, apply_choices
from axsearch.errors import UsageError, cause
from axsearch.models.architectures import architecture_of, architectures
from axsearch.models.surgery import halves_of
from axsearch.space.recipe import Recipe

PREFIX = "axsearch_"
"""The prefix of the ``model_type`` of an export that needs a modeling file of its own."""


def open_export(folder: Path) -> PreTrainedModel:
    """The model of an ``hf`` export, fp32, in evaluation mode on the CPU.

    The folder's modeling file is made of modules of this installation, which are used instead.
    Raises UsageError naming the file that is missing, damaged or not as axsearch writes it.
    """
    data = read_json(folder / "config.json")
    base, _ = exported_classes(folder, data)
    kind = str(data["model_type"]).removeprefix(PREFIX)
    family = architecture_of(kind)
    config_class = base.config_class
    assert config_class is not None
    recipe = Recipe.from_dict(data["axsearch"].get("recipe"), f"The recipe in {folder}")
    made: Any = base if kind == data["model_type"] else _smaller(base, family.layout, recipe)
    try:
        config = config_class.from_dict({**data, "model_type": kind, "auto_map": None})
        model: PreTrainedModel
        model, found = made.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            attn_implementation=family.attention,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # safetensors, torch and the config's readers have a kind each
        raise UsageError(
            f"The model in {folder} cannot be opened: {cause(error)}; export it again."
        ) from None
    strange = sorted({*found["missing_keys"], *found["unexpected_keys"]})
    if strange:
        raise UsageError(
            f"The weights in {folder} do not fit its config, as {strange[0]}; export it again."
        )
    for parameter in model.parameters():  # mapped from the file, which may change meanwhile
        parameter.data = parameter.data.clone()
    model.eval()
    return model


def _smaller(base: type[PreTrainedModel], layout: Layout, recipe: Recipe) -> type[PreTrainedModel]:
    """The class that the modeling file of an export defines."""
    sites, halves = recipe.to_dict()["sites"], halves_of(recipe)

    def init(self: PreTrainedModel, config: PreTrainedConfig) -> None:
        base.__init__(self, config)
        # Exports of 0.1 and before list the shape of each layer that stays, not only its number.
        layers = [n["layer"] if isinstance(n, dict) else n for n in config.axsearch["layers"]]
        apply_choices(self, sites, layers, layout, halves)

    return type("AxsearchModel", (base,), {"__init__": init})


def exported_classes(folder: Path, config: dict[str, Any]) -> tuple[type[PreTrainedModel], str]:
    """The base's class and the auto class that the config of an export names.

    Raises UsageError for any but those that transformers itself lists for a family of ours.
    """
    # Names out of a file become source and attributes.
    ours = config.get("axsearch")
    ours = ours if isinstance(ours, dict) else {}
    kind = str(config.get("model_type")).removeprefix(PREFIX)
    auto_class, base = str(ours.get("auto_class")), str(ours.get("base_class"))
    auto = getattr(transformers, auto_class, None) if auto_class.startswith("AutoModel") else None
    if kind in architectures() and auto is not None:
        own = transformers.AutoConfig.for_model(kind).__class__
        listed = auto._model_mapping.get(own, None)
        for member in listed if isinstance(listed, tuple) else (listed,):
            if member is not None and member.__name__ == base:
                return member, auto_class
    raise UsageError(
        f"{folder / 'config.json'} names a model that axsearch does not write; export it again."
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of an export; raises UsageError where it is not one."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise UsageError(f"{path} is missing or damaged; export the model again.")
    return data
