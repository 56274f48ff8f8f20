"""TaskSpec: which model and data a study is about, and how they are read. Needs no torch."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Annotated

from axsearch.errors import UsageError
from axsearch.options import Option

LARGEST_SEED = 2**32 - 1
"""The largest that numpy takes."""


@dataclass(frozen=True)
class TaskSpec:
    """Which model and data a study is about, and how they are read."""

    model: Annotated[str, Option("Local directory or Hub name of the model")]
    data: Annotated[
        str,
        Option(
            "Folder with train, validation and test as .csv, .jsonl or .parquet, or a Hub dataset "
            "such as nyu-mll/glue:sst2"
        ),
    ]
    _: KW_ONLY
    task: Annotated[
        str | None,
        Option(
            "text-classification, regression, question-answering, token-classification, or a "
            "GLUE task such as glue/cola",
            omitted="inferred from the columns",
        ),
    ] = None
    metric: Annotated[
        str | None,
        Option(
            "accuracy, f1, matthews_correlation, pearson, spearman or exact_match, depending on "
            "the task",
            omitted="the task's default",
        ),
    ] = None
    text_columns: Annotated[
        tuple[str, ...] | None,
        Option("Column with the text, or two of them", omitted="recognised by name"),
    ] = None
    label_column: Annotated[
        str | None,
        Option("Column with the label, number, answers or tags", omitted="recognised by name"),
    ] = None
    search_examples: Annotated[
        int | None, Option("Number of validation examples to evaluate on", omitted="all")
    ] = None
    seed: Annotated[
        int, Option("Random seed for everything that is drawn", minimum=0, maximum=LARGEST_SEED)
    ] = 0

    def check(self) -> None:
        """Raises UsageError for a number that cannot be used."""
        if self.search_examples is not None and self.search_examples < 1:
            raise UsageError(f"`search_examples` must be at least 1, not {self.search_examples}.")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise UsageError(f"`seed` must be from 0 to {LARGEST_SEED}, not {self.seed}.")
