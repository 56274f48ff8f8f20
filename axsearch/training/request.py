"""The arguments of fine-tuning and of recovery, as plain data. Needs no torch."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from axsearch.errors import UsageError
from axsearch.options import Option
from axsearch.system.devices import Device
from axsearch.tasks.spec import TaskSpec


@dataclass(frozen=True, kw_only=True)
class FinetuneRequest:
    """All arguments of fine-tuning; ``search_examples`` of the task does not matter."""

    spec: TaskSpec
    out: Annotated[str, Option("Folder for the fine-tuned model")]
    epochs: Annotated[int, Option("Number of passes over the training examples")] = 3
    device: Device = "cpu"
    force: Annotated[bool, Option("Train even if most words are unknown to the tokenizer")] = False

    def check(self) -> None:
        """Raises UsageError for a number that cannot be used."""
        if self.epochs < 1:
            raise UsageError(f"`epochs` must be at least 1, not {self.epochs}.")
        self.spec.check()


LABEL_WEIGHT = 1.0
"""Of the loss by labels, where none is given."""

CANDIDATES = 12
"""How many models a search recovers, where it is asked to recover any."""


@dataclass(frozen=True, kw_only=True)
class RecoverySettings:
    """How the models of a study are trained further."""

    epochs: Annotated[int, Option("Most passes over the training examples", minimum=1)] = 6
    learning_rate: Annotated[
        float | None, Option("Learning rate", omitted="the best of a few short runs")
    ] = None
    seed: Annotated[int, Option("Seed of the order of examples", minimum=0)] = 0
    soup: Annotated[
        int,
        Option(
            "Number of trainings of each model, with seeds from --seed up, whose weights are "
            "averaged where the search split says so",
            minimum=1,
        ),
    ] = 1
    label_weight: Annotated[
        float,
        Option(
            "Weight of the loss by labels, beside the divergence from the base's outputs; at 0 "
            "only the base teaches",
            minimum=0,
        ),
    ] = LABEL_WEIGHT
    adapters: Annotated[
        int | None,
        Option(
            "Rank of LoRA adapters, which are trained in place of the layers' weights and merged "
            "into them; with a small rank, that takes less memory",
            minimum=1,
            omitted="all weights of the layers are trained",
        ),
    ] = None
    unlabelled: Annotated[
        str | None,
        Option(
            "File of more texts to learn from, without labels: one a line (.txt), or a table with "
            "the columns of the data's texts"
        ),
    ] = None

    def check(self) -> None:
        """Raises UsageError for a number that cannot be used; where a file or peft is missing."""
        for name in ("epochs", "soup"):
            if (value := getattr(self, name)) < 1:
                raise UsageError(f"`{name}` must be at least 1, not {value}.")
        if not (self.label_weight >= 0 and math.isfinite(self.label_weight)):
            raise UsageError(
                f"`label_weight` must be a number from 0 up, such as 1, not {self.label_weight}."
            )
        if self.adapters is not None and self.adapters < 1:
            raise UsageError(f"`adapters` must be at least 1, such as 16, not {self.adapters}.")
        if self.adapters is not None and importlib.util.find_spec("peft") is None:
            raise UsageError(
                "`adapters` needs peft, which is not installed; run pip install "
                "'axsearch[adapters]'."
            )
        if self.unlabelled is not None and not Path(self.unlabelled).expanduser().is_file():
            raise UsageError(f"`unlabelled={self.unlabelled}` is not a file.")
        if self.learning_rate is not None and not 0 < self.learning_rate < 1:
            raise UsageError(
                f"`learning_rate` must be between 0 and 1, such as 3e-4, not {self.learning_rate}."
            )
        if self.seed < 0:
            raise UsageError(f"`seed` must be at least 0, not {self.seed}.")
