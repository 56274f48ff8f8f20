"""Where a model's config and weights are, and what a folder without them holds instead.

A folder that is no model is refused in one sentence, with what makes one of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError, safe_open

from axsearch.errors import UsageError
from axsearch.tasks.hub import check_on_hub, is_path

ADAPTER, MODULES = "adapter_config.json", "modules.json"

CHECKPOINT = re.compile(r"checkpoint-(\d+)")
"""What transformers' Trainer calls the folders that it writes while it trains."""

TRACED = ("model.onnx", "model.xml")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
FOREIGN = {
    "tf_model.h5": "TensorFlow", "tf_model.h5.index.json": "TensorFlow",
    "flax_model.msgpack": "Flax", "flax_model.msgpack.index.json": "Flax",
    "model.ckpt.index": "TensorFlow",
}  # fmt: skip
"""Weights of frameworks that transformers read before version 5."""

STATES = (".ckpt", ".pt", ".pth")
"""Files into which PyTorch and Lightning save weights alone."""

HEADS = {
    "SEQ_CLS": "SequenceClassification",
    "TOKEN_CLS": "TokenClassification",
    "QUESTION_ANS": "QuestionAnswering",
}
"""By the task of an adapter of PEFT, how its class for a model with an adapter ends."""


def place_of(model: str) -> str:
    """Where transformers finds a model: its folder, or the name that the hub knows.

    Of a folder of sentence-transformers it is that of its transformer. Raises UsageError for a name
    that is neither a folder with a config.json nor on the hub.
    """
    if not is_path(model):
        check_on_hub(model, "model")
        return model
    path = Path(model).expanduser()
    if (path / "config.json").is_file():
        return str(path)
    if (path / MODULES).is_file():
        return str(path / _transformer_of(path))
    if (path / ADAPTER).is_file():
        raise UsageError(_adapter(model, path))
    if path.is_dir() and (checkpoints := _numbered(path)):
        raise UsageError(
            f"{model} holds no model, but the checkpoints of a training; name one of them, such as "
            f"the last, {path / checkpoints[-1]}."
        )
    if path.is_file():
        raise UsageError(_file(model, path))
    if path.is_dir() and (states := _ending(path, STATES)):
        raise UsageError(_weights_alone(f"{path / states[0]} holds"))
    raise UsageError(f"The model folder {model} does not exist or holds no config.json.")


def check_weights(model: str, place: str) -> None:
    """Raises UsageError for a folder with a config whose weights are not in safetensors."""
    folder = Path(place)
    if not folder.is_dir() or list(folder.glob("*.safetensors")):
        return
    there = {path.name for path in folder.iterdir()}
    traced = [name for name in TRACED if name in there]
    if traced:
        raise UsageError(
            f"{model} holds a model for another runtime ({traced[0]}), whose weights cannot be "
            "cut or trained; use the one that it was made from, or export the trial with "
            "`axsearch export --format hf`."
        )
    pickled = [name for name in PICKLED if name in there]
    if pickled:
        raise UsageError(
            f"The weights of {model} are a pickle ({pickled[0]}), which could run code and is "
            f"not read; convert them, in Python: transformers.AutoModel"
            f'ForSequenceClassification.from_pretrained("{model}").save_pretrained("{model}"), '
            "with the class of its head."
        )
    foreign = [name for name in FOREIGN if name in there]
    if foreign:
        framework = FOREIGN[foreign[0]]
        raise UsageError(
            f"The weights of {model} are {framework}'s ({foreign[0]}), which transformers reads "
            f"up to version 4 only; convert them there, in Python: transformers.AutoModel"
            f'ForSequenceClassification.from_pretrained("{model}", '
            f'from_{"tf" if framework == "TensorFlow" else "flax"}=True).save_pretrained("{model}")'
            ", with the class of its head."
        )
    raise UsageError(
        f"The weights of {model} (model.safetensors) are not there, only its config.json; save the "
        "model with save_pretrained."
    )


def _transformer_of(path: Path) -> str:
    try:
        modules = json.loads((path / MODULES).read_text())
        inside = str(modules[0]["path"])
    except (OSError, ValueError, LookupError, TypeError):
        raise UsageError(f"{path / MODULES} is not as sentence-transformers writes it.") from None
    if not (path / inside / "config.json").is_file():
        raise UsageError(f"{path} holds no transformer: {path / inside} has no config.json.")
    return inside


def _adapter(model: str, path: Path) -> str:
    """What makes a model of an adapter of PEFT.

    PEFT makes its base with a head of two classes unless it is told how many there are.
    """
    try:
        task = json.loads((path / ADAPTER).read_text()).get("task_type")
    except (OSError, ValueError, AttributeError):
        task = None
    classes = _classes_of(path.glob("*.safetensors"))
    given = "" if classes is None else f", num_labels={classes}"
    return (
        f"{model} is an adapter of PEFT without the model that it belongs to; merge them, in "
        f"Python with peft: AutoPeftModelFor{HEADS.get(str(task), 'SequenceClassification')}"
        f'.from_pretrained("{model}"{given}).merge_and_unload().save_pretrained("merged"), copy '
        "the tokenizer's files there, and use merged."
    )


def _classes_of(files: Iterable[Path]) -> int | None:
    """The outputs of the head that an adapter was saved with; None if it has none."""
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - it is no mapping
                    if re.search(r"\.(classifier|score|out_proj|qa_outputs)\.bias$", name):
                        return int(file.get_slice(name).get_shape()[0])
                    if re.search(r"\.score\.weight$", name):
                        return int(file.get_slice(name).get_shape()[0])
        except (OSError, SafetensorError):
            return None
    return None


def _numbered(path: Path) -> list[str]:
    """The checkpoints of a Trainer in a folder, from the first to the last."""
    found = [
        (int(named[1]), one.name)
        for one in path.iterdir()
        if (named := CHECKPOINT.fullmatch(one.name)) and (one / "config.json").is_file()
    ]
    return [name for _, name in sorted(found)]


def _file(model: str, path: Path) -> str:
    folder = path.parent
    if (folder / "config.json").is_file():
        return f"{model} is a file; name the folder of the model, {folder.absolute()}."
    if path.suffix in (*STATES, ".bin", ".safetensors"):
        return _weights_alone(f"{model} holds")
    return f"{model} is a file; name the folder of a model, with its config.json."


def _weights_alone(holder: str) -> str:
    return (
        f"{holder} weights without the config that a model is made by; load them in Python into "
        "the model that was trained, and save it and its tokenizer with save_pretrained."
    )


def _ending(path: Path, suffixes: tuple[str, ...]) -> list[str]:
    return sorted(one.name for one in path.iterdir() if one.suffix in suffixes)
