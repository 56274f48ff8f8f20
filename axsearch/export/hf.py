"""``--format hf``: a folder that transformers opens without axsearch."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from axsearch.architectures import Architecture, architecture_of, architectures
from axsearch.errors import AxsearchError, UsageError
from axsearch.evaluation.size import METADATA, safetensors_bytes
from axsearch.export.base import Bundle, ExportFormat
from axsearch.export.card import model_card
from axsearch.export.modeling_source import modeling_source
from axsearch.recipe import Recipe, Setting
from axsearch.surgery import plan, shrink, sliced_state

TASK = "text-classification"
AUTO_CLASS = "AutoModelForSequenceClassification"
WEIGHTS, RECIPE, PROBE = "model.safetensors", "recipe.json", "probe.json"
PROBE_ROWS, PROBE_LENGTH = 4, 24
SUFFIXES = (".json", ".jinja", ".md", ".model", ".safetensors", ".txt")

# Runs in a process of its own, in which axsearch cannot be imported.
CHECK = """
import json, sys
sys.modules["axsearch"] = None
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
folder = sys.argv[1]
probe = json.load(open(folder + "/probe.json"))
AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForSequenceClassification.from_pretrained(
    folder, trust_remote_code=True, use_safetensors=True, dtype=torch.float32
).eval()
with torch.inference_mode():
    logits = model(
        input_ids=torch.tensor(probe["input_ids"]),
        attention_mask=torch.tensor(probe["attention_mask"]),
    ).logits
print(json.dumps((logits - torch.tensor(probe["logits"])).abs().max().item()))
"""


class HuggingFace(ExportFormat):
    """safetensors, config, tokenizer, model card and a self-contained modeling file."""

    name = "hf"

    def write(self, bundle: Bundle, folder: Path) -> None:
        """Write the model; the config holds the recipe and the shape of each layer."""
        family = architecture_of(bundle.base.config.model_type)
        state = {k: v.contiguous() for k, v in sliced_state(bundle.base, bundle.recipe).items()}
        save_file(state, folder / WEIGHTS, metadata=METADATA)
        (folder / WEIGHTS).chmod(stat.S_IMODE(folder.stat().st_mode) & 0o666)
        written = (folder / WEIGHTS).stat().st_size
        if not written == safetensors_bytes(state) == bundle.measurement.size_bytes:
            raise AxsearchError(
                f"The weights take {written:,} bytes, not the {bundle.measurement.size_bytes:,} "
                "that the study recorded."
            )
        config = _config(bundle, family)
        (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
        (folder / f"{_module(family)}.py").write_text(modeling_source(family, AUTO_CLASS))
        bundle.tokenizer.save_pretrained(folder)
        bundle.recipe.write(folder / RECIPE)
        (folder / PROBE).write_text(json.dumps(_probe(bundle)) + "\n")
        (folder / "README.md").write_text(model_card(bundle, AUTO_CLASS, TASK))

    def check(self, folder: Path) -> float:
        """Open the folder without axsearch.

        A manifest holds no secret, so a folder may come from anybody: only the modeling file that
        this installation writes itself is run, and nothing else in the folder may name code.
        """
        Recipe.read(folder / RECIPE)
        config = _read_json(folder / "config.json")
        tokenizer = _read_json(folder / "tokenizer_config.json")
        kind = str(config.get("model_type")).removeprefix("axsearch_")
        if kind not in architectures():
            raise UsageError(f"{folder / 'config.json'} names an unknown model type.")
        family = architecture_of(kind)
        modeling = folder / f"{_module(family)}.py"
        # Exactly ours: transformers reads `x--y` in here as code of the hub repository x.
        own = config.get("auto_map") == _auto_map(family) and modeling.is_file()
        strange = [p for p in folder.iterdir() if p.suffix not in SUFFIXES and p != modeling]
        if strange or "auto_map" in tokenizer or not (folder / WEIGHTS).is_file():
            culprit = strange[0] if strange else folder / "tokenizer_config.json"
            raise UsageError(f"{culprit} is not as axsearch writes it; export the model again.")
        if not own or modeling.read_text() != modeling_source(family, AUTO_CLASS):
            raise UsageError(
                f"{modeling} is not the file that this version of axsearch writes, "
                "so it is not run; export the model again."
            )
        done = subprocess.run(
            [sys.executable, "-I", "-c", CHECK, str(folder.resolve())],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise AxsearchError(f"{folder} does not open in a new process: {reason}")
        return float(json.loads(done.stdout.strip().splitlines()[-1]))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise UsageError(f"{path} is missing or damaged; export the model again.")
    return data


def _module(family: Architecture) -> str:
    return f"modeling_axsearch_{family.modeling_module.rpartition('.')[2]}"


def _auto_map(family: Architecture) -> dict[str, str]:
    return {
        "AutoConfig": f"{_module(family)}.{family.config_class.__name__}",
        AUTO_CLASS: f"{_module(family)}.{family.exported[TASK].__name__}",
    }


def _config(bundle: Bundle, family: Architecture) -> dict[str, Any]:
    wanted = plan(bundle.base, bundle.recipe)
    config: dict[str, Any] = bundle.base.config.to_dict()
    for private in ("_name_or_path", "auto_map"):
        config.pop(private, None)
    return {
        **config,
        "model_type": family.config_class.model_type,
        "architectures": [family.exported[TASK].__name__],
        "auto_map": _auto_map(family),
        "num_hidden_layers": len(wanted.layers),
        "dtype": "float32",
        "axsearch": {
            "recipe": bundle.recipe.to_dict(),
            "base_layers": list(wanted.layers),
            "layers": wanted.shapes,
        },
    }


def _probe(bundle: Bundle) -> dict[str, Any]:
    # Random tokens, half of the rows padded, and what the searched model says to them; longer
    # than twice any k, since attention to all keys would not show that top-k works.
    config = bundle.base.config
    ks = [c.value for _, _, c in bundle.recipe.choices() if isinstance(c, Setting)]
    length = min(max([PROBE_LENGTH, *(2 * k + 2 for k in ks)]), config.max_position_embeddings)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (PROBE_ROWS, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[PROBE_ROWS // 2 :, length // 2 :] = 0
    with torch.inference_mode():
        logits = shrink(bundle.base, bundle.recipe)(input_ids=ids, attention_mask=mask).logits
    return {
        "input_ids": ids.tolist(),
        "attention_mask": mask.tolist(),
        "logits": logits.double().tolist(),
    }
