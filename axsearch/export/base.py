"""The contract of an export format, and the files that every export holds."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
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
from axsearch.graphs.onnx import LENGTH, answers, example
from axsearch.models.base_model import Base
from axsearch.models.surgery import Plan
from axsearch.models.weights import Weights
from axsearch.runtimes import runtimes
from axsearch.runtimes.base import Inputs
from axsearch.space.recipe import Recipe
from axsearch.statistics.measurement import Measurement
from axsearch.statistics.outcome import Estimate
from axsearch.store.queries import Evaluation
from axsearch.study.comparison import AgainstBase

RECIPE, PROBE, CONFIG = "recipe.json", "probe.json", "config.json"
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
    which texts were cut; ``precision`` is that of the files, ``searched_in`` says in what else
    accuracy on the search split and latency were measured, and ``examples`` are what int8 is
    calibrated with.
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
    precision: str = "float32"
    searched_in: str | None = None
    examples: Sequence[Inputs] = ()

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
        wanted = [
            recorded(s.kind)[n].probe_length(c) for s, n, c in self.plan.after.recipe.choices()
        ]
        length = min(max([LENGTH, *wanted]), self.base.family.longest(config))
        segments = "token_type_ids" in self.tokenizer.model_input_names
        return example(self.small, length, segments=segments)

    @cached_property
    def probe_outputs(self) -> dict[str, Tensor]:
        """The searched model's outputs for the probe, by name."""
        return answers(self.small, self.probe_inputs)

    def quantized(self, folder: Path, format: str) -> tuple[Bundle, dict[str, Tensor]]:
        """What is said of an int8 model in a folder: the bundle with its size, and its answers.

        Args:
            folder: with the model's files, and no others.
            format: that they are of.
        """
        runtime = next(one for one in runtimes().values() if one.export_format == format)
        with runtime.open(folder, precision=self.precision, threads=None, device="cpu") as session:
            answers = dict(session.run(session.prepare(self.probe_inputs)))
        size = sum(file.stat().st_size for file in folder.iterdir())
        sizes = {"size_bytes": size, "size_ratio": size / self.baseline.size_bytes}
        return replace(self, measurement=self.measurement.model_copy(update=sizes)), answers

    def write_common(
        self, folder: Path, card: str, answers: Mapping[str, Tensor] | None = None
    ) -> None:
        """Write what every format has beside the model: tokenizer, recipe, probe and card.

        ``answers`` are those of the probe, where they are not the searched model's.
        """
        self.tokenizer.save_pretrained(folder)
        self.plan.after.recipe.write(folder / RECIPE)
        probe = {
            "inputs": {name: _listed(tensor) for name, tensor in self.probe_inputs.items()},
            "outputs": {
                name: _listed(tensor) for name, tensor in (answers or self.probe_outputs).items()
            },
        }
        (folder / PROBE).write_text(json.dumps(probe) + "\n")
        (folder / CARD).write_text(card)


class ExportFormat(ABC):
    """A way to write a smaller model to a folder; one file in this folder is one format.

    ``tolerance`` is how far its answers may be from those of the searched model, or, where it is
    quantized, from those of the quantized one. ``precisions`` are those that it can be written in.
    """

    name: ClassVar[str]
    tolerance: ClassVar[float]
    precisions: ClassVar[tuple[str, ...]] = ("float32",)

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
