"""``--format openvino``: OpenVINO's own files, for any batch size and length.

They are made from the ONNX file, which OpenVINO runs as fast and as exactly as the result of its
own tracer of PyTorch modules. OpenVINO is imported only in processes of its own that block its
telemetry package, which reports every import to Google Analytics without asking.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from axsearch.errors import UsageError
from axsearch.export.base import Bundle, ExportFormat, check_files
from axsearch.export.card import model_card
from axsearch.export.onnx import check_config, too_large, write_config
from axsearch.graphs import nncf
from axsearch.graphs.conversion import write_onnx
from axsearch.graphs.nncf import MODEL, WEIGHTS
from axsearch.graphs.onnx import PACKAGES as ONNX_PACKAGES
from axsearch.graphs.onnx import missing
from axsearch.statistics.measurement import Measurement
from axsearch.system.new_process import run_check

PACKAGES = ("openvino",)

CONVERT = """
import os, sys
for package in ("axsearch", "openvino_telemetry"):
    sys.modules[package] = None
import openvino
source, target = sys.argv[1] + "/model.onnx", sys.argv[1] + "/model.xml"
openvino.save_model(openvino.Core().read_model(source), target, compress_to_fp16=False)
print(os.path.getsize(target))
"""

# Runs in a process of its own, in which none of what made the model can be imported. Some
# processors would compute in bfloat16 by default.
CHECK = """
import json, sys
for package in ("axsearch", "onnx", "onnxruntime", "openvino_telemetry", "torch", "transformers"):
    sys.modules[package] = None
import numpy, openvino
folder = sys.argv[1]
probe = json.load(open(folder + "/probe.json"))
model = openvino.Core().compile_model(
    folder + "/model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
)
inputs = {
    i.any_name: numpy.array(probe["inputs"][i.any_name], i.element_type.to_dtype())
    for i in model.inputs
}
found = model(inputs)
expected = {name: numpy.array(value) for name, value in probe["outputs"].items()}
assert {n: found[n].shape for n in expected} == {n: e.shape for n, e in expected.items()}, (
    "answers of another shape"
)
print(json.dumps(float(numpy.max([abs(found[n] - e).max() for n, e in expected.items()]))))
"""


class OpenVino(ExportFormat):
    """model.xml and model.bin in float32, tokenizer, config, recipe, probe and model card."""

    name = "openvino"
    tolerance = 1e-3
    precisions = ("float32", "bfloat16", "int8")

    def refusal(self, measurement: Measurement) -> str | None:
        """As for ``onnx``, through which it is written."""
        return missing((*PACKAGES, *ONNX_PACKAGES)) or too_large(measurement)

    def write(self, bundle: Bundle, folder: Path) -> None:
        """Write the model through ONNX.

        In int8 NNCF quantizes it, as it did when it was measured. For bfloat16 the files are those
        in float32: the processor computes in it if it is asked to, which the card shows.
        """
        written, answers = bundle, None
        onnx = folder / "model.onnx"
        write_onnx(bundle.small, bundle.probe_inputs, onnx)
        if bundle.precision == "int8":
            nncf.quantize(onnx, folder, bundle.examples)
        else:
            run_check(CONVERT, folder)
        onnx.unlink()
        if bundle.precision == "int8":
            written, answers = bundle.quantized(folder, self.name)
        write_config(bundle, folder)
        bundle.write_common(folder, model_card(written, self.name), answers)

    def check(self, folder: Path) -> float:
        """Open the folder with OpenVINO alone.

        A manifest holds no secret, so a folder may come from anybody: only files that need no
        other file and no operators but OpenVINO's own are opened.
        """
        check_files(folder, (MODEL, WEIGHTS))
        check_config(folder)
        reason = missing(PACKAGES)
        if reason is not None:
            raise UsageError(f"{folder} cannot be opened: {reason}.")
        _check_model(folder / MODEL)
        return run_check(CHECK, folder)


def _check_model(path: Path) -> None:
    try:
        text = path.read_text()
        if "<!" in text:  # declarations of entities, which OpenVINO never writes
            raise ValueError
        layers = ElementTree.fromstring(text).iter("layer")
        own = all(re.fullmatch(r"opset\d+", layer.get("version", "")) for layer in layers)
    except (ValueError, ElementTree.ParseError):
        raise UsageError(f"{path} is damaged; export the model again.") from None
    if not own or "weights_path" in text.lower():
        raise UsageError(
            f"{path} is not as axsearch writes it, with operators or files that are not its own, "
            "so it is not opened; export the model again."
        )
