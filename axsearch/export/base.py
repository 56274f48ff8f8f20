"""What an export format is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from axsearch.measurement import Measurement
from axsearch.recipe import Recipe


@dataclass(frozen=True)
class Bundle:
    """Everything that goes into an export: the base, the recipe and what was measured of it."""

    base: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    recipe: Recipe
    measurement: Measurement
    baseline: Measurement
    study: str
    model_name: str
    data_name: str
    metric: str
    scenario: str | None


class ExportFormat(ABC):
    """A way to write a smaller model to a folder; one file in this folder is one format."""

    name: ClassVar[str]

    @abstractmethod
    def write(self, bundle: Bundle, folder: Path) -> None:
        """Write the model into an existing, empty folder."""

    @abstractmethod
    def check(self, folder: Path) -> float:
        """Open an export in a new process; the largest difference of its logits to the stored.

        Raises UsageError naming the file that was changed or is missing.
        """
