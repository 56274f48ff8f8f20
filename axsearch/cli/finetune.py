"""``axsearch finetune``."""

from __future__ import annotations

import json as to_json
from typing import Annotated

import typer

from axsearch.cli import options


def finetune(
    model: options.Model,
    data: options.Data,
    out: Annotated[str, typer.Option(help="Folder for the fine-tuned model.")],
    task: options.Task = None,
    metric: options.Metric = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training examples.")] = 3,
    max_length: Annotated[int, typer.Option(help="Longest input in tokens.")] = 128,
    text_columns: options.TextColumns = None,
    label_column: options.LabelColumn = None,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    json: options.Json = False,
) -> None:
    """Fine-tune a model on labelled data, to have a base to search from.

    \b
    Example:
      axsearch finetune --model bert-base-uncased --data data --out base
    """
    from axsearch.training.finetuning import finetune as run

    done = run(
        model,
        data,
        out,
        task=task,
        metric=metric,
        text_columns=options.columns(text_columns),
        label_column=label_column,
        epochs=epochs,
        max_length=max_length,
        seed=seed,
        device=device,
    )
    if json:
        found = {"path": str(done.path), "metric": done.metric, **done.validation._asdict()}
        print(to_json.dumps({**found, "cached": done.cached}))
        return
    value, low, high = done.validation
    cached = " (already there)" if done.cached else ""
    print(f"{done.path}: {done.metric} {value:.4f} ({low:.4f} to {high:.4f}) on validation{cached}")
