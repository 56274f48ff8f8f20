"""Open the folder of an ``hf`` export without running the code that it contains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel

from axsearch.approximations.modeling import apply_choices
from axsearch.errors import UsageError, cause
from axsearch.models.architectures import architecture_of, architectures
from axsearch.models.export_config import PREFIX
from axsearch.models.origin import ENTRY, layer_numbers
from axsearch.models.surgery import halves_of
from axsearch.space.recipe import Recipe


def open_export(folder: Path) -> PreTrainedModel:
    """The model of an ``hf`` export, fp32, in evaluation mode on the CPU.

    The folder's modeling file is made of modules of this installation, which are used instead.
    Raises UsageError naming the file that is missing, damaged or not as axsearch writes it.
    """
    data = read_json(folder / "config.json")
    base, _ = exported_classes(folder, data)
    config = exported_config(folder, data)
    made: Any = base if config.model_type == data["model_type"] else smaller_class(base, config)
    try:
        model: PreTrainedModel
        model, found = made.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            attn_implementation=architecture_of(config.model_type).attention,
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
    model.__class__ = base
    model.eval()
    return model


def exported_config(
    folder: Path, data: dict[str, Any], *, lossless: bool = True
) -> PreTrainedConfig:
    """The config of an export, as the original's class of configs has it.

    Without ``lossless`` choices that change no answer are left out of its recipe: a base is seen by
    hooks, which must find every token. Raises UsageError where it is not as axsearch writes it.
    """
    base, _ = exported_classes(folder, data)
    assert base.config_class is not None
    check_origin(folder, data)
    own = {name: value for name, value in data.items() if name != "auto_map"}
    if not lossless and ENTRY in own:
        recipe = Recipe.from_dict(own[ENTRY].get("recipe")).lossy
        own[ENTRY] = {**own[ENTRY], "recipe": recipe.to_dict()}
    own["model_type"] = str(data["model_type"]).removeprefix(PREFIX)
    try:
        config = base.config_class.from_dict({**own, "architectures": [base.__name__]})
    except Exception as error:  # a config whose values contradict one another
        raise UsageError(f"{folder / 'config.json'} cannot be used: {cause(error)}.") from None
    return config


def check_origin(folder: Path, data: dict[str, Any]) -> None:
    """Raises UsageError for a config that says otherwise than axsearch what was done to a model."""
    ours, kind = data.get(ENTRY), str(data.get("model_type"))
    if ours is None and not kind.startswith(PREFIX):
        return
    ours = ours if isinstance(ours, dict) else {}
    Recipe.from_dict(ours.get("recipe"), f"The recipe in {folder / 'config.json'}")
    if "layers" in ours or kind.startswith(PREFIX):
        layer_numbers(ours.get("layers"))


def class_of(auto: Any, config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The class with which one of transformers' auto classes opens a model with this config.

    Raises KeyError where there is none.
    """
    found = auto._model_mapping[type(config)]
    every = found if isinstance(found, tuple) else (found,)
    named: Any = next((c for c in every if [c.__name__] == config.architectures), every[0])
    return named  # type: ignore[no-any-return]


def smaller_class(base: type[PreTrainedModel], config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The class that the modeling file of an export defines, from the modules of axsearch.

    It is for opening a folder only: a model is then set back to ``base``, as one that was just made
    smaller has the class of its base.

    Args:
        base: the class of the original, or the one of its family with another head.
        config: of the export, see :func:`exported_config`.
    """
    ours, layout = getattr(config, ENTRY), architecture_of(config.model_type).layout
    recipe = Recipe.from_dict(ours["recipe"])
    sites, halves, layers = (
        recipe.to_dict()["sites"],
        halves_of(recipe),
        layer_numbers(ours["layers"]),
    )

    def init(self: PreTrainedModel, config: PreTrainedConfig) -> None:
        base.__init__(self, config)
        apply_choices(self, sites, layers, layout, halves)

    return type("AxsearchModel", (base,), {"__init__": init})


def exported_classes(folder: Path, config: dict[str, Any]) -> tuple[type[PreTrainedModel], str]:
    """The base's class and the auto class that the config of an export names.

    Raises UsageError for any but those that transformers itself lists for a family of ours.
    """
    # Names out of a file become source and attributes.
    ours = config.get(ENTRY)
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
