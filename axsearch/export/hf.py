"""``--format hf``: a folder that transformers opens without axsearch."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import PreTrainedModel

from axsearch.errors import AxsearchError, UsageError
from axsearch.evaluation.size import METADATA, safetensors_bytes
from axsearch.export.base import RECIPE, Bundle, ExportFormat, run_check
from axsearch.export.card import model_card
from axsearch.export.modeling_source import modeling_source
from axsearch.models.exported import PREFIX, exported_classes, read_json
from axsearch.space.recipe import Recipe

WEIGHTS, MODELING = "model.safetensors", "modeling_axsearch"
EARLIER = Path(__file__).with_name("earlier_sources.json")
"""SHA-256 of the modeling files of earlier releases, by release, auto class and model type."""

SUFFIXES = (".json", ".jinja", ".md", ".model", ".safetensors", ".txt")

# Runs in a process of its own, in which axsearch cannot be imported. A plain checkpoint is opened
# without leave to run code.
CHECK = """
import json, sys
sys.modules["axsearch"] = None
import torch, transformers
folder, auto_class, remote = sys.argv[1:]
probe = json.load(open(folder + "/probe.json"))
if "input_ids" in probe["inputs"]:
    transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=remote == "1")
model = getattr(transformers, auto_class).from_pretrained(
    folder, trust_remote_code=remote == "1", use_safetensors=True, dtype=torch.float32
).eval()
with torch.inference_mode():
    answer = model(**{name: torch.tensor(value) for name, value in probe["inputs"].items()})
print(json.dumps(torch.stack([
    (answer[name] - torch.tensor(value)).abs().max() for name, value in probe["outputs"].items()
]).max().item()))
"""


class HuggingFace(ExportFormat):
    """safetensors, config, tokenizer, model card and a self-contained modeling file.

    Where only whole layers were removed, it is a plain checkpoint of the family without the file.
    """

    name = "hf"
    tolerance = 1e-5

    def write(self, bundle: Bundle, folder: Path) -> None:
        """Write the model; the config holds the recipe and which of the base's layers stay."""
        state = {name: tensor.contiguous() for name, tensor in bundle.state.items()}
        save_file(state, folder / WEIGHTS, metadata=METADATA)
        (folder / WEIGHTS).chmod(stat.S_IMODE(folder.stat().st_mode) & 0o666)
        written = (folder / WEIGHTS).stat().st_size
        if not written == safetensors_bytes(state) == bundle.measurement.size_bytes:
            raise AxsearchError(
                f"The weights take {written:,} bytes, not the {bundle.measurement.size_bytes:,} "
                "that the study recorded."
            )
        config = _config(bundle)
        (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
        if "auto_map" in config:
            source = modeling_source(
                type(bundle.base.model), bundle.auto_class, _types(bundle.recipe)
            )
            (folder / f"{MODELING}.py").write_text(source)
        card = model_card(bundle, "hf", remote="auto_map" in config)
        bundle.write_common(folder, card)

    def check(self, folder: Path) -> float:
        """Open the folder without axsearch.

        A manifest holds no secret, so a folder may come from anybody: only the modeling file that
        this version or an earlier release writes for the model's class is run, and nothing else in
        the folder may name code.
        """
        recipe = Recipe.read(folder / RECIPE)
        config = read_json(folder / "config.json")
        tokenizer = folder / "tokenizer_config.json"
        known = {name for path in [tokenizer] if path.is_file() for name in read_json(path)}
        modeling = folder / f"{MODELING}.py"
        strange = [p for p in folder.iterdir() if p.suffix not in SUFFIXES and p != modeling]
        if strange or "auto_map" in known or not (folder / WEIGHTS).is_file():
            culprit = strange[0] if strange else tokenizer
            raise UsageError(f"{culprit} is not as axsearch writes it; export the model again.")
        base, auto_class = exported_classes(folder, config)
        remote = "auto_map" in config or modeling.exists()
        # Exactly ours: transformers reads `x--y` in here as code of the hub repository x.
        if remote and (
            config.get("auto_map") != _auto_map(auto_class)
            or not modeling.is_file()
            or not _is_written_by_us(modeling, base, auto_class, recipe)
        ):
            raise UsageError(
                f"{modeling} is not the file that this version of axsearch or an earlier one "
                "writes, so it is not run; export the model again."
            )
        return run_check(CHECK, folder, auto_class, "1" if remote else "0")


def _types(recipe: Recipe) -> list[str]:
    return sorted({name for _, name, _ in recipe.choices()})


def _is_written_by_us(
    modeling: Path, base: type[PreTrainedModel], auto_class: str, recipe: Recipe
) -> bool:
    # This version's file is compared with what it would write. Earlier releases are not installed,
    # but nobody can make another file with the SHA-256 of one of theirs. Each is known for its own
    # model type and class only: for any other, the file is as foreign as anybody else's.
    source = modeling.read_text(encoding="utf-8", errors="replace")
    if source == modeling_source(base, auto_class, _types(recipe)):
        return True
    assert base.config_class is not None
    model_type = base.config_class.model_type
    checksum = hashlib.sha256(source.encode()).hexdigest()
    return any(
        release.get(auto_class, {}).get(model_type) == checksum
        for release in read_json(EARLIER).values()
    )


def _auto_map(auto_class: str) -> dict[str, str]:
    return {"AutoConfig": f"{MODELING}.AxsearchConfig", auto_class: f"{MODELING}.AxsearchModel"}


def _config(bundle: Bundle) -> dict[str, Any]:
    model, family = bundle.base.model, bundle.base.family
    wanted = bundle.base.plan(bundle.recipe)
    config: dict[str, Any] = model.config.to_dict()
    for private in ("_name_or_path", "auto_map"):
        config.pop(private, None)
    ours: dict[str, Any] = {
        "recipe": bundle.recipe.to_dict(),
        "base_class": type(model).__name__,
        "auto_class": bundle.auto_class,
    }
    config |= {"dtype": "float32", **family.config_of(model.config, wanted.layers)}
    if wanted.whole:
        return {**config, "architectures": [type(model).__name__], "axsearch": ours}
    return {
        **config,
        "model_type": f"{PREFIX}{model.config.model_type}",
        "architectures": ["AxsearchModel"],
        "auto_map": _auto_map(bundle.auto_class),
        "axsearch": {**ours, "layers": list(wanted.layers)},
    }
