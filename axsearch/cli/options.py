"""The options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Model = Annotated[str, typer.Option(help="Local directory or hub name of the model.")]
Data = Annotated[
    str,
    typer.Option(
        help="Folder with train, validation and test as .csv, .jsonl or .parquet, or a hub "
        "dataset such as nyu-mll/glue:sst2."
    ),
]
Storage = Annotated[
    str,
    typer.Option(envvar="AXSEARCH_STORAGE", help="Database URL, such as sqlite:///studies.db."),
]
StudyName = Annotated[str, typer.Option("--study", help="Name of the study.")]
Task = Annotated[
    str | None,
    typer.Option(
        help="text-classification, regression, question-answering, token-classification, or a "
        "GLUE name such as glue/cola; inferred if not given."
    ),
]
Metric = Annotated[
    str | None,
    typer.Option(
        help="accuracy, f1, matthews_correlation, pearson, spearman or exact_match, where the "
        "task has it; the task's own if left out."
    ),
]
TextColumns = Annotated[
    str | None, typer.Option(help="Column of the text, or two columns with a comma between.")
]
LabelColumn = Annotated[
    str | None, typer.Option(help="Column of the label, number, answers or tags.")
]
Seed = Annotated[
    int, typer.Option(min=0, max=2**32 - 1, help="Seed of all that is drawn at random.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda or mps.")]
Address = Annotated[
    str | None,
    typer.Option(help="Of a Ray cluster; with --engine ray one is made here if left out."),
]
Cpus = Annotated[
    int | None,
    typer.Option(help="Processors a worker, also its torch threads; shared alike if left out."),
]
Gpus = Annotated[float, typer.Option(min=0.0, help="GPUs a worker, for Ray to place it.")]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", help="Say nothing on stderr but errors: no progress and no notes."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ModelHere = Annotated[
    str | None,
    typer.Option("--model", help="Where the model lies here, if not where the search has it."),
]
DataHere = Annotated[
    str | None,
    typer.Option("--data", help="Where the data lie here, if not where the search has them."),
]
Trial = Annotated[int, typer.Option(min=0, help="Number of a finished trial.")]


def columns(text: str | None) -> tuple[str, ...] | None:
    """``--text-columns`` as a tuple."""
    return None if text is None else tuple(part.strip() for part in text.split(","))
