"""The contract of an export format, and the files that every export holds."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto import modeling_auto

from axsearch.approximations import recorded
from axsearch.errors import UsageError
from axsearch.export.manifest import CARD, contents
from axsearch.export.manifest import NAME as MANIFEST
from axsearch.models.base_model import Base
from axsearch.models.surgery import Plan
from axsearch.models.weights import Weights
from axsearch.space.recipe import Recipe
from axsearch.statistics.measurement import Measurement
from axsearch.statistics.outcome import Estimate
from axsearch.store.queries import Evaluation
from axsearch.study.comparison import AgainstBase

RECIPE, PROBE, CONFIG = "recipe.json", "probe.json", "config.json"
PROBE_ROWS, PROBE_LENGTH = 4, 24
OUTPUTS = ("logits", "start_logits", "end_logits", "last_hidden_state")
"""The outputs that a model may have; a probe stores those that it has."""

NAMES = (
    RECIPE, PROBE, CONFIG, CARD, MANIFEST, "added_tokens.json", "chat_template.json",
    "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.json",
)  # fmt: skip
"""Files that an export may have in every format, beside a tokenizer's texts."""

TEXTS = (".codes", ".jinja", ".model", ".txt")
"""Suffixes of files that hold a tokenizer's words and templates, and are only read."""


@dataclass(frozen=True)
class Bundle:
    """Everything that goes into an export: the base, the recipe and its measurements.

    ``learnt`` is the fingerprint of the training examples of the base, None where it is not known;
    ``weights`` are where the recipe's tensors come from, ``dtype`` is that of the numbers in an hf
    export; ``expected`` is the drop below the base
    that is expected on new data, None where it is not known; ``holdout`` and ``base_holdout`` are
    the accuracies on the holdout split, ``against_base`` their comparison; ``scenario`` and
    ``runtime`` say in words what latency was measured for, and ``machine`` where; ``cut`` says
    which texts were cut.
    """

    base: Base
    tokenizer: PreTrainedTokenizerBase
    recipe: Recipe
    weights: Weights
    dtype: torch.dtype
    measurement: Measurement
    baseline: Measurement
    expected: Estimate | None
    holdout: Evaluation
    base_holdout: Evaluation
    against_base: AgainstBase
    study: str
    task: str
    model_name: str
    data_name: str
    metric: str
    scenario: str | None
    runtime: str
    machine: str
    cut: str = ""
    learnt: str | None = None

    @cached_property
    def plan(self) -> Plan:
        """The layers that stay, and what was done to the original model in all."""
        return self.base.plan(self.recipe)

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """The smaller model's tensors."""
        return self.weights.state(self.recipe)

    @cached_property
    def small(self) -> PreTrainedModel:
        """The smaller model, in evaluation mode."""
        return self.weights.source.shrink(self.recipe, self.state)

    @cached_property
    def auto_class(self) -> str:
        """The class of transformers that opens the base: ``AutoModelForSequenceClassification``."""
        own, config = type(self.base.model), type(self.base.model.config)
        for name, auto in vars(modeling_auto).items():
            if name.startswith("AutoModelFor"):
                found = auto._model_mapping.get(config, None)
                if own in (found if isinstance(found, tuple) else (found,)):
                    return name
        raise UsageError(f"Models of the class {own.__name__} cannot be exported.")

    @cached_property
    def probe_inputs(self) -> dict[str, Tensor]:
        """Random inputs, half of the rows padded, that show whether an export is right.

        Long enough for every choice of the recipe to show.
        """
        config = self.base.model.config
        family = self.base.family
        wanted = [
            recorded(s.kind)[n].probe_length(c) for s, n, c in self.plan.after.recipe.choices()
        ]
        length = min(max([PROBE_LENGTH, *wanted]), family.longest(config))
        inputs = family.example(config, PROBE_ROWS, length)
        name, taken = "token_type_ids", signature(self.base.model.forward).parameters
        if name in self.tokenizer.model_input_names and name in taken:
            # Which of two texts a token is of; a traced export takes no input that is not here.
            inputs[name] = torch.zeros(PROBE_ROWS, length, dtype=torch.int64)
            if getattr(config, "type_vocab_size", 0) > 1:
                inputs[name][:, length // 3 :] = 1
        return inputs

    @cached_property
    def probe_outputs(self) -> dict[str, Tensor]:
        """The searched model's outputs for the probe, by name."""
        with torch.inference_mode():
            answer = self.small(**self.probe_inputs)
        return {name: answer[name] for name in OUTPUTS if name in answer}

    def write_common(self, folder: Path, card: str) -> None:
        """Write what every format has beside the model: tokenizer, recipe, probe and card."""
        self.tokenizer.save_pretrained(folder)
        self.plan.after.recipe.write(folder / RECIPE)
        probe = {
            "inputs": {name: _listed(tensor) for name, tensor in self.probe_inputs.items()},
            "outputs": {name: _listed(tensor) for name, tensor in self.probe_outputs.items()},
        }
        (folder / PROBE).write_text(json.dumps(probe) + "\n")
        (folder / CARD).write_text(card)


class ExportFormat(ABC):
    """A way to write a smaller model to a folder; one file in this folder is one format.

    ``tolerance`` is how far its answers may be from those of the searched model.
    """

    name: ClassVar[str]
    tolerance: ClassVar[float]

    def refusal(self, measurement: Measurement) -> str | None:
        """Why a model cannot be written in this format; None if it can. Called before any work."""
        return None

    @abstractmethod
    def write(self, bundle: Bundle, folder: Path) -> None:
        """Write the model into an existing, empty folder."""

    @abstractmethod
    def check(self, folder: Path) -> float:
        """Open an export in a new process; returns how far its answers are from the stored ones.

        Raises UsageError naming the file that was changed or is missing.
        """


def check_files(folder: Path, models: Collection[str], code: Collection[str] = ()) -> None:
    """Raise UsageError for a file that is missing from an export or of a kind it never has.

    Others may name code: transformers takes a model from elsewhere by ``adapter_config.json``.

    Args:
        folder: of the export.
        models: names of the files that only this format has, all of which must be there.
        code: names of files that may be there, and that the format looks at itself.
    """
    Recipe.read(folder / RECIPE)
    for name in models:
        if not (folder / name).is_file():
            raise UsageError(f"{folder / name} is missing; export the model again.")
    for path in contents(folder):
        if path.name not in (*models, *code, *NAMES) and path.suffix not in TEXTS:
            raise UsageError(f"{path} is not as axsearch writes it; export the model again.")


def _listed(tensor: Tensor) -> list[Any]:
    values: list[Any] = (tensor.double() if tensor.is_floating_point() else tensor).tolist()
    return values
