"""Opening a fine-tuned model: its config, its head, its weights and its tokenizer.

What transformers opens without a word is opened; what would give wrong numbers is refused in one
sentence with the remedy. Weights come from safetensors only, and no code out of a folder is run.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
import transformers
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from axsearch.errors import UsageError, cause
from axsearch.models.architectures import architecture_of
from axsearch.models.export_config import PREFIX
from axsearch.models.exported import check_origin, class_of, exported_config, smaller_class
from axsearch.models.origin import is_shaped
from axsearch.system.allocator import keep_freed_memory
from axsearch.tasks.hub import is_path
from axsearch.tasks.kinds import TaskKind, task_kinds
from axsearch.tasks.model_folder import check_weights, place_of
from axsearch.tasks.spec import TaskSpec

WRAPPERS = ("module.", "_orig_mod.")
"""What torch's DataParallel and ``torch.compile`` put before the name of every tensor."""

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""The types of weights by safetensors' names; others are opened as float32."""

transformers.utils.logging.set_verbosity_error()  # their notes on loading are not the user's
transformers.utils.logging.disable_progress_bar()


def load_config(model: str) -> PreTrainedConfig:
    """The config of a supported model; raises UsageError for anything else."""
    place = place_of(model)
    try:
        raw, _ = PreTrainedConfig.get_config_dict(place)
    except Exception as error:  # the hub client raises a dozen unrelated kinds
        reason = cause(error)
        raise UsageError(f"{model} cannot be loaded as a model: {reason}.") from None
    if not isinstance(raw, dict):
        raise UsageError(f"{model}/config.json is not a model's config.")
    _check_quantized(model, raw)
    check_origin(Path(model), raw)
    kind = raw.get("model_type", "unknown")
    ours = isinstance(kind, str) and kind.startswith(PREFIX)
    architecture_of(kind.removeprefix(PREFIX) if ours else kind)
    if ours:
        config = exported_config(Path(model), raw, lossless=False)
    else:
        try:
            config = AutoConfig.from_pretrained(place, trust_remote_code=False)
        except Exception as error:  # a config whose values contradict one another
            reason = cause(error)
            raise UsageError(f"{model}/config.json cannot be used: {reason}.") from None
    if not architecture_of(config.model_type).reads_text:
        raise UsageError(
            f"{model} is a {config.model_type} model, which does not read text; axsearch has no "
            "task for it yet, only `axsearch.shrink`."
        )
    if getattr(config, "is_decoder", False):
        raise UsageError(
            f"{model} is set up as a decoder (is_decoder in its config), which is not supported "
            f"for {config.model_type}."
        )
    if config.pad_token_id is None:
        raise UsageError(
            f"{model} has no padding token, which batches need: set pad_token_id in its "
            "config.json and pad_token in its tokenizer_config.json, to the end token, for example."
        )
    return config


def _check_quantized(model: str, raw: dict[str, Any]) -> None:
    """Raises UsageError for a config of a model that cannot be cut."""
    quantized = raw.get("quantization_config")
    if isinstance(quantized, dict):
        method = quantized.get("quant_method", "some method")
        raise UsageError(
            f"{model} is quantized ({method}), so its tensors cannot be cut or refitted; use the "
            "model that it was made from, and quantize the smaller one."
        )


def check_head(model: str, config: PreTrainedConfig, kind: TaskKind[Any, Any] | None) -> None:
    """Raises UsageError for a model whose head is not one for this kind, or for any if None."""
    found = (config.architectures or [""])[0]
    kinds = list(task_kinds().values()) if kind is None else [kind]
    if any(found.endswith(fitting.head) for fitting in kinds):
        if kind is not None:
            kind.check_config(model, config)
        return
    other = " or ".join(k.name for k in task_kinds().values() if found.endswith(k.head))
    if kind is not None and other:
        raise UsageError(
            f"{model} has a head for {other} ({found}), which does not fit {kind.name}; "
            "give the right `task` and data, or fine-tune it with `axsearch finetune`."
        )
    raise UsageError(
        f"{model} has no head for {'any task' if kind is None else kind.name} "
        f"({found or 'unknown class'}); fine-tune it first with `axsearch finetune`."
    )


def load_model(
    model: str,
    auto_class: Any,
    *,
    attention: str | None = None,
    new_head: bool = False,
    **config: Any,
) -> PreTrainedModel:
    """A model with its head in evaluation mode, fp32, from safetensors only.

    ``auto_class`` is transformers' class for the head (:attr:`TaskKind.auto_class`), ``attention``
    the implementation of attention; the family's own if None. ``config`` entries replace those of
    the model's own config. Weights of the head may be missing only with ``new_head``. Raises
    UsageError where weights are missing or damaged.
    """
    keep_freed_memory()
    own, place = load_config(model), place_of(model)
    if getattr(own, "chunk_size_feed_forward", 0):
        config["chunk_size_feed_forward"] = 0  # the same answers, and blocks that run once
    for name, value in config.items():  # as arguments they would be checked one by one
        setattr(own, name, value)
    check_weights(model, place)
    prefixes = "|".join(map(re.escape, WRAPPERS))
    mapping = {f"^(?:{prefixes})+": ""} if _is_wrapped(place) else None
    try:
        loaded: PreTrainedModel
        base = class_of(auto_class, own) if is_shaped(own) else None
        made: Any = auto_class if base is None else smaller_class(base, own)
        loaded, found = made.from_pretrained(
            place,
            config=own,
            dtype=torch.float32,
            attn_implementation=attention or architecture_of(own.model_type).attention,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, with both shapes
            key_mapping=mapping,
        )
    except Exception as error:  # safetensors, torch and the config's readers have a kind each
        reason = cause(error)
        if any(_is_pointer(path) for path in Path(place).glob("*.safetensors")):
            reason = "it is a pointer of Git LFS; `git lfs pull` fetches the file"
        raise UsageError(
            f"The weights of {model} (model.safetensors) cannot be loaded: {reason}."
        ) from None
    if base is not None:
        loaded.__class__ = base
    _check_tensors(model, loaded, found, new_head)
    loaded.eval()
    for parameter in loaded.parameters():  # mapped from the file, which may change meanwhile
        parameter.data = parameter.data.clone()
    return loaded


def _is_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(20).startswith(b"version https://git")


def _check_tensors(
    model: str, loaded: PreTrainedModel, found: dict[str, Any], new_head: bool
) -> None:
    """Raises UsageError for tensors of another shape than the config says, or missing ones."""
    body = f"{loaded.base_model_prefix}."

    def may_be_new(name: str) -> bool:
        return new_head and (not name.startswith(body) or ".pooler." in name)

    for name, *shapes in sorted(found["mismatched_keys"]):
        if not may_be_new(name):
            theirs, ours = (tuple(shape) for shape in shapes)
            removed = getattr(loaded.config, "pruned_heads", None)
            remedy = (
                "an earlier transformers removed heads (pruned_heads), which none opens since "
                "version 5: use the model before that"
                if removed
                else "use the config that they were saved with"
            )
            raise UsageError(
                f"The weights of {model} do not fit its config.json: {name} has the shape {theirs} "
                f"in the file and {ours} by the config; {remedy}."
            )
    missing = [name for name in sorted(found["missing_keys"]) if not may_be_new(name)]
    if missing:
        others = sorted(found["unexpected_keys"])
        held = f"; it holds {others[0]}, for example" if others else ""
        raise UsageError(
            f"The weights of {model} (model.safetensors) lack {len(missing)} tensors of its "
            f"config, such as {missing[0]}{held}: save the model itself, without what it was "
            "wrapped in, with its save_pretrained method."
        )


def _is_wrapped(place: str) -> bool:
    """Whether a local model's tensors all have a prefix of :data:`WRAPPERS`."""
    names: list[str] = []
    for path in Path(place).glob("*.safetensors"):
        try:
            with safe_open(path, framework="pt") as file:
                names += file.keys()
        except Exception:  # a damaged file, of which loading says more
            return False
    return bool(names) and all(name.startswith(WRAPPERS) for name in names)


def dtype_of_file(model: str, config: PreTrainedConfig) -> str:
    """The type in which all numbers of a model's safetensors files are kept: float16, say.

    float32 where there are several, since rounding all of them to one would change the model. Of a
    model that was not downloaded as a single file it is what its config says.
    """
    place = place_of(model)
    files = sorted(Path(place).glob("*.safetensors"))
    if not Path(place).is_dir():
        cached = huggingface_hub.try_to_load_from_cache(place, "model.safetensors")
        files = [Path(cached)] if isinstance(cached, str) else []
    found: set[str] = set()
    for path in files:
        with safe_open(path, framework="pt") as file:
            found |= {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    kept = {DTYPES[name] for name in found if name in DTYPES}
    if not files:
        kept = {str(getattr(config, "dtype", None)).removeprefix("torch.")} & {*DTYPES.values()}
    return kept.pop() if len(kept) == 1 else "float32"


def on_device(model: PreTrainedModel, device: str) -> PreTrainedModel:
    """Move a model, in place."""
    torch.nn.Module.to(model, device)
    return model


def load_tokenizer(model: str, tokenizer: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer, freed of padding and truncation that its file may have built in.

    Args:
        model: whose tokenizer it is.
        tokenizer: where it is from, if not from there.

    Raises:
        UsageError: there is none, or one that knows no words, as transformers makes it for a folder
            without a vocabulary.
    """
    source = tokenizer or model
    if tokenizer is None or not is_path(tokenizer):
        place = place_of(source)
    else:
        place = str(Path(tokenizer).expanduser())
    try:
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            place, config=_family_config(place), trust_remote_code=False
        )
    except Exception as error:  # tokenizers raises bare Exception on damaged files
        reason = cause(error)
        raise UsageError(
            f"The tokenizer of {source} cannot be loaded: {reason}; `tokenizer` names another."
        ) from None
    if len(found) <= len(found.all_special_tokens):
        raise UsageError(
            f"{source} holds no tokenizer: without its vocabulary every word would be unknown; "
            "save the tokenizer there, or name another `tokenizer`."
        )
    backend = getattr(found, "backend_tokenizer", None)
    if backend is not None:
        backend.no_padding()
        backend.no_truncation()
    return found


def _family_config(place: str) -> PreTrainedConfig | None:
    """By which transformers chooses a tokenizer's class, where it must not read it itself."""
    try:
        raw, _ = PreTrainedConfig.get_config_dict(place)
    except Exception:  # a place that has a tokenizer only
        return None
    exported = str(raw.get("model_type")).startswith(PREFIX)
    return exported_config(Path(place), raw) if exported else None


def check_vocabulary(
    model: str, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig
) -> None:
    """Raises UsageError for a tokenizer with tokens that the model does not have."""
    if len(tokenizer) > config.vocab_size:
        raise UsageError(
            f"The tokenizer of {model} knows {len(tokenizer)} tokens, its model only "
            f"{config.vocab_size}; they do not belong together."
        )


def input_length(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> int:
    """How many tokens of an example the model can see: its positions, and its tokenizer's limit."""
    most = architecture_of(config.model_type).longest(config)
    return int(min(tokenizer.model_max_length, most))


def check_length(spec: TaskSpec) -> None:
    """Raises UsageError for a ``max_length`` above what the model and its tokenizer read."""
    asked, model = spec.max_length, spec.model
    if asked is None:
        return
    config = load_config(model)
    family = architecture_of(config.model_type)
    most = family.longest(config)
    if asked > most:
        remedy = (
            f"; fine-tune it with `max_length={asked}`, which gives it more, or give"
            if family.positions
            else "; use a model with more, or give"
        )
        raise UsageError(
            f"`max_length={asked}` is above the {most} positions of {model}{remedy} at most {most}."
        )
    tokenizer = load_tokenizer(model, spec.tokenizer)
    if asked > tokenizer.model_max_length:
        raise UsageError(
            f"`max_length={asked}` is above the {tokenizer.model_max_length} tokens that the "
            f"tokenizer of {spec.tokenizer or model} reads (its model_max_length); fine-tune the "
            f"model with `max_length={asked}`, or give at most {tokenizer.model_max_length}."
        )
