"""``--format onnx``: one standard ONNX file for any batch size and length."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from axsearch.errors import UsageError
from axsearch.export.base import CONFIG, Bundle, ExportFormat, check_files
from axsearch.export.card import model_card
from axsearch.export.config import check_entries, kept_entries
from axsearch.graphs import dynamic
from axsearch.graphs.conversion import MODEL, write_onnx
from axsearch.graphs.onnx import LIMIT, PACKAGES, missing
from axsearch.models.architectures import architectures
from axsearch.models.exported import read_json
from axsearch.statistics.measurement import Measurement
from axsearch.system.new_process import run_check

# Runs in a process of its own, in which none of what made the model can be imported.
CHECK = """
import json, sys
for package in ("axsearch", "onnx", "onnxscript", "torch", "transformers"):
    sys.modules[package] = None
import numpy, onnxruntime
folder = sys.argv[1]
probe = json.load(open(folder + "/probe.json"))
session = onnxruntime.InferenceSession(
    folder + "/model.onnx", providers=["CPUExecutionProvider"]
)
types = {"tensor(int64)": "int64", "tensor(float)": "float32"}
inputs = {i.name: numpy.array(probe["inputs"][i.name], types[i.type]) for i in session.get_inputs()}
answers = session.run(list(probe["outputs"]), inputs)
expected = [numpy.array(value) for value in probe["outputs"].values()]
assert [a.shape for a in answers] == [e.shape for e in expected], "answers of another shape"
print(json.dumps(float(numpy.max([abs(a - e).max() for a, e in zip(answers, expected)]))))
"""


class Onnx(ExportFormat):
    """model.onnx with the weights inside it, tokenizer, config, recipe, probe and model card."""

    name = "onnx"
    tolerance = 1e-3
    precisions = ("float32", "int8")

    def refusal(self, measurement: Measurement) -> str | None:
        """Every recipe can be, if the packages are installed and one file holds the weights."""
        return missing(PACKAGES) or too_large(measurement)

    def write(self, bundle: Bundle, folder: Path) -> None:
        """Write the file of torch's exporter, without the paths and code that it adds.

        In int8 it is quantized, as it was when it was measured.
        """
        written, answers = bundle, None
        write_onnx(bundle.small, bundle.probe_inputs, folder / MODEL)
        if bundle.precision == "int8":
            exact = (folder / MODEL).rename(folder / f"float32.{MODEL}")
            dynamic.quantize(exact, folder)
            exact.unlink()
            written, answers = bundle.quantized(folder, self.name)
        write_config(bundle, folder)
        bundle.write_common(folder, model_card(written, self.name), answers)

    def check(self, folder: Path) -> float:
        """Open the folder with ONNX Runtime alone.

        A manifest holds no secret, so a folder may come from anybody: only a file that needs no
        other file and no operators but ONNX's own is opened.
        """
        check_files(folder, (MODEL,))
        check_config(folder)
        reason = missing(PACKAGES)
        if reason is not None:
            raise UsageError(f"{folder} cannot be opened: {reason}.")
        _check_model(folder / MODEL)
        return run_check(CHECK, folder)


def too_large(measurement: Measurement) -> str | None:
    """Why one ONNX file cannot hold the weights; None if it can."""
    size = 4 * measurement.parameters  # it is written in float32 before it is quantized
    if size <= LIMIT:
        return None
    return f"its weights take {size:,} bytes in float32 and one ONNX file holds 2 GiB"


def write_config(bundle: Bundle, folder: Path) -> None:
    """The base's config for readers of the labels' names: plain, with the layers that are left."""
    config = kept_entries(bundle.small.config)
    (folder / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def check_config(folder: Path) -> None:
    """Raise UsageError where the config is not as :func:`write_config` writes it.

    The runtimes do not read it, but whoever uses the export reads the names of labels there.
    """
    path = folder / CONFIG
    data = read_json(path)
    kind = str(data.get("model_type"))
    if kind not in architectures():
        raise UsageError(f"{path} names a model that axsearch does not write; export it again.")
    check_entries(path, data, type(AutoConfig.for_model(kind)))


def _check_model(path: Path) -> None:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError):
        raise UsageError(f"{path} is damaged; export the model again.") from None
    domains = {entry.domain for entry in model.opset_import} - {"", "ai.onnx"}
    if domains or model.functions or any(t.external_data for t in _tensors(model, onnx)):
        raise UsageError(
            f"{path} is not as axsearch writes it, with operators or files that are not its own, "
            "so it is not opened; export the model again."
        )


def _tensors(message: Any, onnx: Any) -> Iterator[Any]:
    # All of them, also those in attributes and in graphs inside of nodes.
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for member in value if field.is_repeated else (value,):
                yield from _tensors(member, onnx)
