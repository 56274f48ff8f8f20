"""TaskSpec: which model and data a study is about, and how they are read. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Annotated

from axsearch.errors import UsageError
from axsearch.options import Option

USUAL = 512
"""Tokens to which inputs are cut unless many are longer; all were, before that could be set."""

SHORTEST = 8
"""The fewest tokens to which inputs may be cut."""

LARGEST_SEED = 2**32 - 1
"""The largest that numpy takes."""

AS_BEFORE, LEFT_OUT, UNKNOWN = 1, 2, 3
"""How data are read, since splits that are not there are cut from others: as version 0.1 did, which
its studies and the models that it fine-tuned keep; from train, where the model was fine-tuned on
what is left of it; or not from train where it can be helped, since what the model has seen is not
known. Version 0.1 also knew fewer names of files and columns."""


@dataclass(frozen=True)
class TaskSpec:
    """Which model and data a study is about, and how they are read."""

    model: Annotated[str, Option("Local directory or Hub name of the model")]
    data: Annotated[
        str,
        Option(
            "Folder with train, validation and test as .csv, .tsv, .json, .jsonl, .parquet or "
            ".conll, or a Hub dataset such as nyu-mll/glue:sst2"
        ),
    ]
    _: KW_ONLY
    task: Annotated[
        str | None,
        Option(
            "text-classification, multi-label-classification, regression, question-answering, "
            "token-classification, or a GLUE task such as glue/cola",
            omitted="inferred from the columns",
        ),
    ] = None
    metric: Annotated[
        str | None,
        Option(
            "accuracy, f1, matthews_correlation, micro_f1, macro_f1, pearson, spearman or "
            "exact_match, depending on the task",
            omitted="the task's default",
        ),
    ] = None
    text_columns: Annotated[
        tuple[str, ...] | None,
        Option("Column with the text, or two of them", omitted="recognised by name"),
    ] = None
    label_column: Annotated[
        str | None,
        Option(
            "Column with the label, number, answers or tags; several of 0 and 1 for "
            "multi-label-classification",
            omitted="recognised by name",
        ),
    ] = None
    labels: Annotated[
        tuple[str, ...] | None,
        Option(
            "Class of the model's head, by id or name, for each label of the data, such as "
            "negative=0,positive=1",
            omitted="found by name",
        ),
    ] = None
    tokenizer: Annotated[
        str | None,
        Option("Local directory or Hub name of the tokenizer", omitted="the model's own"),
    ] = None
    encoding: Annotated[
        str | None, Option("Encoding of text files, such as cp1252", omitted="UTF-8")
    ] = None
    max_length: Annotated[
        int | None,
        Option(
            "Length in tokens to which inputs are cut, up to what the model and its tokenizer read",
            omitted=f"{USUAL}, or as much more as keeps nine texts in ten whole; that of `axsearch "
            "finetune` for a model of it",
        ),
    ] = None
    vocabulary_from: Annotated[
        str | None,
        Option(
            "Text file, a text a line, whose tokens the approximation vocabulary keeps, too",
            omitted="the training texts alone count",
        ),
    ] = None
    search_examples: Annotated[
        int | None, Option("Number of validation examples to evaluate on", omitted="all")
    ] = None
    seed: Annotated[
        int, Option("Random seed for everything that is drawn", minimum=0, maximum=LARGEST_SEED)
    ] = 0
    reading: int | None = None
    """How data are read; decided when they are, if None. Not for the user to set."""
    file_dtype: str | None = None
    """In which the model's file keeps its weights; looked at, if None. Not for the user to set."""

    def __post_init__(self) -> None:
        """Takes labels as a mapping too, and names of columns with commas between them."""
        columns: object = self.text_columns
        if isinstance(columns, str | list):
            own = columns.split(",") if isinstance(columns, str) else columns
            object.__setattr__(self, "text_columns", tuple(own))
        labels: object = self.labels
        if isinstance(labels, Mapping):
            pairs = tuple(f"{label}={target}" for label, target in labels.items())
            object.__setattr__(self, "labels", pairs)

    def check(self) -> None:
        """Raises UsageError for a number that cannot be used."""
        if self.search_examples is not None and self.search_examples < 1:
            raise UsageError(f"`search_examples` must be at least 1, not {self.search_examples}.")
        if self.max_length is not None and self.max_length < SHORTEST:
            raise UsageError(f"`max_length` must be at least {SHORTEST}, not {self.max_length}.")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise UsageError(f"`seed` must be from 0 to {LARGEST_SEED}, not {self.seed}.")
        try:
            "".encode(self.encoding or "utf-8")  # an encoding of texts, unlike rot13
        except (LookupError, ValueError):
            raise UsageError(
                f"`encoding` must be one that Python knows, such as cp1252, not {self.encoding!r}."
            ) from None
