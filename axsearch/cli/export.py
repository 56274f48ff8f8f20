"""``axsearch export``."""

from __future__ import annotations

import json as to_json
from typing import Annotated

from axsearch.cli.options import Json, Trial
from axsearch.options import Option
from axsearch.running.request import DataHere, ModelHere, Storage, StudyName
from axsearch.study.study import Study


def export(
    storage: Storage,
    study: StudyName,
    trial: Trial,
    out: Annotated[str, Option("Folder to write to; it must be empty or not exist yet")],
    format: Annotated[str, Option("Format: hf, onnx or openvino")] = "hf",
    force: Annotated[
        bool, Option("Export the model even if it is no better than a constant prediction")
    ] = False,
    dtype: Annotated[
        str | None,
        Option(
            "Type in which an hf export keeps its weights: float32, float16 or bfloat16",
            omitted="the base's",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        Option(
            "Precision in which an onnx or openvino export computes: float32, bfloat16 (openvino) "
            "or int8",
            omitted="the study's if the format is that of its runtime, else float32",
        ),
    ] = None,
    model: ModelHere = None,
    data: DataHere = None,
    json: Json = False,
) -> None:
    """Write the smaller model of a trial to a folder.

    \b
    Example:
      axsearch export --storage sqlite:///studies.db --study reviews --trial 12 --out small
    """
    opened = Study.open(storage, study)
    chosen = opened.trial(trial)
    from axsearch.export import export_model

    folder = export_model(
        opened,
        trial,
        out,
        format=format,
        force=force,
        dtype=dtype,
        precision=precision,
        model=model,
        data=data,
    )
    if json:
        print(
            to_json.dumps({"path": str(folder), "format": format, **chosen.model_dump(mode="json")})
        )
    else:
        print(folder)
