"""FinetuneRequest: all arguments of fine-tuning, as plain data. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
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
