"""The entries of an export's config that say which class it has, and what was done to the original.

Other entries are those of the model's family, and no matter of axsearch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from axsearch.models.architectures import architecture_of
from axsearch.models.modeling_source import modeling_source
from axsearch.models.origin import ENTRY, Origin, is_shaped
from axsearch.space.recipe import Recipe

PREFIX = "axsearch_"
"""The prefix of the ``model_type`` of an export that needs a modeling file of its own."""

MODELING = "modeling_axsearch"
"""The name of that file, without ``.py``."""


def auto_map(auto_class: str) -> dict[str, str]:
    """Where transformers finds the classes of such an export."""
    return {"AutoConfig": f"{MODELING}.AxsearchConfig", auto_class: f"{MODELING}.AxsearchModel"}


def class_entries(base: type[PreTrainedModel], *, plain: bool) -> dict[str, Any]:
    """The entries that name the class of an export: its own, or ``base`` of a plain checkpoint."""
    assert base.config_class is not None
    if plain:
        return {"model_type": base.config_class.model_type, "architectures": [base.__name__]}
    return {
        "model_type": f"{PREFIX}{base.config_class.model_type}",
        "architectures": ["AxsearchModel"],
    }


def own_entries(
    base: type[PreTrainedModel],
    auto_class: str,
    origin: Origin,
    *,
    plain: bool,
    learnt: str | None = None,
) -> dict[str, Any]:
    """All entries of axsearch in the config of an export.

    Args:
        base: the class of the original model.
        auto_class: the name of transformers' class that opens it.
        origin: what was done to it.
        plain: whether the export is a plain checkpoint, which needs no modeling file.
        learnt: SHA-256 of the training examples of its base, if they are known: a search that goes
            on from the export cuts missing splits as those of its base were cut.
    """
    ours = {**origin.to_dict(), "base_class": base.__name__, "auto_class": auto_class}
    ours |= {} if learnt is None else {"learnt": learnt}
    entries = class_entries(base, plain=plain)
    if plain:
        del ours["layers"]
        return {**entries, ENTRY: ours}
    return {**entries, "auto_map": auto_map(auto_class), ENTRY: ours}


def write_modeling(
    folder: Path, base: type[PreTrainedModel], auto_class: str, recipe: Recipe
) -> None:
    """Write the modeling file of an export."""
    source = modeling_source(base, auto_class, types_of(recipe))
    (folder / f"{MODELING}.py").write_text(source)


def types_of(recipe: Recipe) -> list[str]:
    """The types of choices that a recipe makes, in alphabetical order."""
    return sorted({name for _, name, _ in recipe.choices()})


def keep_origin(folder: Path, model: PreTrainedModel, auto_class: str) -> None:
    """Let a folder that ``save_pretrained`` wrote of an opened export open as the export does.

    Nothing is changed where the model is no export. The head may be another one than the export's.
    """
    if getattr(model.config, ENTRY, None) is None:
        return
    family = architecture_of(model.config.model_type)
    origin = Origin.of(model.config, family.layout, len(family.layers(model)))
    base, plain = type(model), not is_shaped(model.config)
    path = folder / "config.json"
    entries = json.loads(path.read_text()) | own_entries(base, auto_class, origin, plain=plain)
    path.write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n")
    if not plain:
        write_modeling(folder, base, auto_class, origin.recipe)
