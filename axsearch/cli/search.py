"""``axsearch search``."""

from __future__ import annotations

from typing import Annotated

import typer

from axsearch.cli import options
from axsearch.cli.front import print_front, print_json
from axsearch.errors import AxsearchError
from axsearch.running.engines import Place


def search(
    model: options.Model,
    data: options.Data,
    storage: options.Storage,
    study: options.StudyName,
    trials: Annotated[
        int,
        typer.Option(help="Total number of finished trials wanted, those stopped early included."),
    ],
    task: options.Task = None,
    metric: options.Metric = None,
    approximations: Annotated[
        str | None,
        typer.Option(
            help="The approximations to try, with commas between; heads,ffn,topk if left out "
            "(head_mask,ffn_mask,topk_hard for the axformer sampler). Others: attention_block, "
            "ffn_block, layer, ffn_topk."
        ),
    ] = None,
    freeze: Annotated[
        str | None,
        typer.Option(help="Layers and blocks to leave as they are, such as layer00,layer05.ffn."),
    ] = None,
    compensation: Annotated[
        str | None,
        typer.Option(
            help="How what is left makes up for what is removed, at no cost in latency: none, bias "
            "or least_squares; if left out, least_squares, and none for the axformer sampler."
        ),
    ] = None,
    sampler: Annotated[
        str,
        typer.Option(help="auto, axformer, hat, nsga2, nsga3, tpe, gp or random."),
    ] = "auto",
    epsilon: Annotated[
        float | None,
        typer.Option(
            help="For axformer: keep a change while the loss is at most (1 + epsilon) times the "
            "base's, for speed and size; if left out it must lower the loss."
        ),
    ] = None,
    staged: Annotated[
        bool | None,
        typer.Option(
            "--staged/--no-staged",
            help="Stop evaluating a recipe, after 1/8 or 1/2 of the examples, that confidently "
            "adds next to nothing to the front; on but for axformer.",
        ),
    ] = None,
    objectives: Annotated[
        str, typer.Option(help="accuracy and any of latency and size.")
    ] = "accuracy,latency,size",
    max_drop: Annotated[
        float | None, typer.Option(help="Accuracy that may be lost at most, such as 0.01.")
    ] = None,
    max_latency_ratio: Annotated[
        float | None,
        typer.Option(
            help="Share of the base's time at most, such as 0.5; slower models are not evaluated."
        ),
    ] = None,
    max_size_ratio: Annotated[
        float | None,
        typer.Option(
            help="Share of the base's bytes at most, such as 0.7; larger models are not evaluated."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Examples a batch, for latency.")] = 32,
    sequence_length: Annotated[
        int | None,
        typer.Option(help="Tokens an example, for latency; the examples' own if left out."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Torch threads, for latency; all if left out.")
    ] = None,
    search_examples: Annotated[
        int | None, typer.Option(help="Validation examples to evaluate on; all if left out.")
    ] = None,
    device: options.Device = "cpu",
    dtype: Annotated[
        str,
        typer.Option(
            help="What accuracy is evaluated in: float32, bfloat16 (answers that it could change "
            "are run again in float32), or auto: bfloat16 where that is faster."
        ),
    ] = "auto",
    workers: Annotated[
        int, typer.Option(help="How many processes evaluate; they share the processors.")
    ] = 1,
    engine: Annotated[str, typer.Option(help="Where workers run: local or ray.")] = "local",
    address: options.Address = None,
    cpus_per_worker: options.Cpus = None,
    gpus_per_worker: options.Gpus = 0.0,
    text_columns: options.TextColumns = None,
    label_column: options.LabelColumn = None,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Search the approximations of a fine-tuned model; resumes a study that exists.

    \b
    Example:
      axsearch search --model base --data data --trials 100 \\
        --storage sqlite:///studies.db --study reviews
    """
    place = Place(workers, engine, address, cpus_per_worker, gpus_per_worker)
    from axsearch.running.search import search as run

    try:
        done = run(
            model,
            data,
            storage=storage,
            study=study,
            trials=trials,
            task=task,
            metric=metric,
            text_columns=options.columns(text_columns),
            label_column=label_column,
            approximations=options.columns(approximations),
            freeze=options.columns(freeze) or (),
            compensation=compensation,  # type: ignore[arg-type]
            sampler=sampler,
            epsilon=epsilon,
            staged=staged,
            objectives=tuple(name.strip() for name in objectives.split(",")),
            max_drop=max_drop,
            max_latency_ratio=max_latency_ratio,
            max_size_ratio=max_size_ratio,
            batch_size=batch_size,
            sequence_length=sequence_length,
            threads=threads,
            search_examples=search_examples,
            device=device,
            dtype=dtype,
            place=place,
            seed=seed,
        )
    except KeyboardInterrupt:
        raise AxsearchError(
            "stopped; finished trials are kept, and the same command goes on from there."
        ) from None
    if json:
        print_json(done)
    else:
        print_front(done)
