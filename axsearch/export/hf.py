"""``--format hf``: a folder that transformers opens without axsearch."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import PreTrainedModel

from axsearch.errors import AxsearchError, UsageError
from axsearch.evaluation.size import METADATA, safetensors_bytes
from axsearch.export.base import CONFIG, RECIPE, Bundle, ExportFormat, check_files
from axsearch.export.card import model_card
from axsearch.export.config import PRIVATE, check_entries, kept_entries
from axsearch.models.export_config import (
    MODELING,
    auto_map,
    class_entries,
    own_entries,
    types_of,
    write_modeling,
)
from axsearch.models.exported import exported_classes, read_json
from axsearch.models.modeling_source import modeling_source
from axsearch.space.recipe import Recipe
from axsearch.system.new_process import run_check

WEIGHTS = "model.safetensors"
EARLIER = Path(__file__).with_name("earlier_sources.json")
"""SHA-256 of the modeling files of earlier releases, by release, auto class and model type."""

# Runs in a process of its own, in which axsearch cannot be imported, nor what takes code or weights
# from elsewhere for a model. A plain checkpoint is opened without leave to run code.
CHECK = """
import json, sys
for package in ("axsearch", "kernels", "peft"):
    sys.modules[package] = None
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

    Where only whole layers or tokens were removed, or all FFNs have the same new width, it is a
    plain checkpoint of the family without the file.
    """

    name = "hf"
    tolerance = 1e-5

    def write(self, bundle: Bundle, folder: Path) -> None:
        """Write the model; the config holds the recipe and which of the base's layers stay."""
        state = {
            name: (tensor.to(bundle.dtype) if tensor.is_floating_point() else tensor).contiguous()
            for name, tensor in bundle.state.items()
        }
        save_file(state, folder / WEIGHTS, metadata=METADATA)
        (folder / WEIGHTS).chmod(stat.S_IMODE(folder.stat().st_mode) & 0o666)
        written = (folder / WEIGHTS).stat().st_size
        if not written == safetensors_bytes(state) == bundle.measurement.size_bytes:
            raise AxsearchError(
                f"The weights take {written:,} bytes, not the {bundle.measurement.size_bytes:,} "
                "that the study recorded."
            )
        config = _config(bundle)
        (folder / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
        if "auto_map" in config:
            write_modeling(
                folder, type(bundle.base.model), bundle.auto_class, bundle.plan.after.recipe
            )
        card = model_card(bundle, "hf", remote="auto_map" in config)
        bundle.write_common(folder, card)

    def check(self, folder: Path) -> float:
        """Open the folder without axsearch.

        A manifest holds no secret, so a folder may come from anybody: only the modeling file that
        this version or an earlier release writes for the model's class is run, and nothing else in
        the folder may name code.
        """
        config = read_json(folder / CONFIG)
        modeling = folder / f"{MODELING}.py"
        remote = "auto_map" in config or modeling.exists()
        check_files(folder, (WEIGHTS,), (modeling.name,))
        recipe = Recipe.read(folder / RECIPE)
        tokenizer = folder / "tokenizer_config.json"
        if tokenizer.is_file() and "auto_map" in read_json(tokenizer):
            raise UsageError(f"{tokenizer} is not as axsearch writes it; export the model again.")
        base, auto_class = exported_classes(folder, config)
        # Exactly ours: transformers reads `x--y` in here as code of the hub repository x.
        if remote and (
            config.get("auto_map") != auto_map(auto_class)
            or not modeling.is_file()
            or not _is_written_by_us(modeling, base, auto_class, recipe)
        ):
            raise UsageError(
                f"{modeling} is not the file that this version of axsearch or an earlier one "
                "writes, so it is not run; export the model again."
            )
        _check_config(folder / CONFIG, config, base, recipe, remote)
        return run_check(CHECK, folder, auto_class, "1" if remote else "0")


def _is_written_by_us(
    modeling: Path, base: type[PreTrainedModel], auto_class: str, recipe: Recipe
) -> bool:
    # This version's file is compared with what it would write. Earlier releases are not installed,
    # but nobody can make another file with the SHA-256 of one of theirs. Each is known for its own
    # model type and class only: for any other, the file is as foreign as anybody else's.
    source = modeling.read_text(encoding="utf-8", errors="replace")
    if source == modeling_source(base, auto_class, types_of(recipe)):
        return True
    assert base.config_class is not None
    model_type = base.config_class.model_type
    checksum = hashlib.sha256(source.encode()).hexdigest()
    return any(
        release.get(auto_class, {}).get(model_type) == checksum
        for release in read_json(EARLIER).values()
    )


def _config(bundle: Bundle) -> dict[str, Any]:
    model, plan = bundle.base.model, bundle.plan
    entries = kept_entries(bundle.small.config)  # which counts layers and tokens that are left
    dtype = str(bundle.dtype).removeprefix("torch.")
    entries |= {"dtype": dtype}
    return entries | own_entries(
        type(model), bundle.auto_class, plan.after, plain=plan.plain, learnt=bundle.learnt
    )


def _check_config(
    path: Path, config: dict[str, Any], base: type[PreTrainedModel], recipe: Recipe, remote: bool
) -> None:
    """Raise UsageError where a config is not as :func:`_config` writes it.

    The entries that the recipe and the class imply are compared with them. Those of the base are
    not known here: the model's answers show whether they are right.
    """
    assert base.config_class is not None
    ours, names = config["axsearch"], {"recipe", "base_class", "auto_class"}
    if remote:
        names.add("layers")
    expected = class_entries(base, plain=not remote)
    wrong = [name for name, value in expected.items() if config.get(name) != value]
    own = Recipe.from_dict(ours.get("recipe"), f"The recipe in {path}")
    digest = ours.get("learnt", "0" * 64)  # of a base that was fine-tuned elsewhere it is not there
    known = isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) is not None
    if wrong or set(ours) - {"learnt"} != names or own != recipe or not known:
        wrong.append("axsearch")
        raise UsageError(
            f"{path} has another {wrong[0]!r} than the recipe and the other files imply; export "
            "the model again."
        )
    entries = {name: value for name, value in config.items() if name not in PRIVATE}
    check_entries(path, entries, base.config_class)
