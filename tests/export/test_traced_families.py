"""ONNX and OpenVINO files of every family, at batch sizes and lengths they were not traced at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from axsearch.approximations.choices import Choice, Kept, Setting
from axsearch.approximations.site import SELECTABLE_SCORES, SiteId
from axsearch.export.checking import run_check
from axsearch.export.onnx import write_onnx
from axsearch.export.openvino import CONVERT
from axsearch.models.architectures import architecture_of, architectures
from axsearch.models.weights import shrink
from axsearch.space.recipe import Recipe
from axsearch.testing.models import PICTURES, padded_batch, tiny_model

A0, F0, A1, F1 = (SiteId(layer, kind) for layer in (0, 1) for kind in ("attention", "ffn"))
K = 9

RUN = """
import json, sys
sys.modules["openvino_telemetry"] = None
import numpy, openvino
model = openvino.Core().compile_model(
    sys.argv[1] + "/model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
)
for name in sys.argv[2:]:
    inputs = dict(numpy.load(sys.argv[1] + f"/{name}.npz"))
    numpy.save(sys.argv[1] + f"/{name}.npy", model(inputs)["logits"])
"""


class Traced(NamedTuple):
    folder: Path
    small: PreTrainedModel
    batches: dict[str, dict[str, Tensor]]

    def assert_same(self, name: str, found: object) -> None:
        with torch.inference_mode():
            expected = self.small(**self.batches[name]).logits
        torch.testing.assert_close(torch.as_tensor(found), expected, rtol=0, atol=1e-5)


def recipe(model_type: str) -> Recipe:
    """Uneven heads; a layer with both kinds of top-k, where the family has them."""
    topk: dict[str, Choice] = {"topk": Setting(value=K, mode="hard")}
    sites: dict[SiteId, dict[str, Choice]] = {
        A0: {"heads": Kept(of=4, kept=(0, 2, 3))},
        F0: {"ffn": Kept(of=64, kept=tuple(range(0, 64, 2)))},
        A1: {"heads": Kept(of=4, kept=(1,))},
        F1: {"ffn_topk": Setting(value=8, mode="largest")},
    }
    if SELECTABLE_SCORES not in architecture_of(model_type).lacks:
        sites[A1] |= topk
    return Recipe.of(sites)


def batches(model_type: str) -> dict[str, dict[str, Tensor]]:
    """Rows padded on the right and on the left, as many tokens as k and fewer, one token."""
    right = padded_batch(model_type)
    if model_type in PICTURES:
        return {"three": right, "one": {name: t[:1] for name, t in right.items()}}
    left = {name: tensor[:, :40].clone() for name, tensor in right.items()}
    left["attention_mask"][:] = 1
    left["attention_mask"][1, :30] = 0
    whole = {"input_ids": right["input_ids"], "attention_mask": right["input_ids"] * 0 + 1}
    sizes = {"as many as k": (2, K), "fewer than k": (2, K - 4), "one token": (1, 1)}
    cut = {
        name: {key: tensor[:rows, :length] for key, tensor in whole.items()}
        for name, (rows, length) in sizes.items()
    }
    return {"right": right, "left": left, **cut}


@pytest.fixture(scope="module", params=sorted({f.model_types[0] for f in architectures().values()}))
def traced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Traced:
    model_type: str = request.param
    folder = tmp_path_factory.mktemp(model_type)
    small = shrink(tiny_model(model_type), recipe(model_type))
    probe = architecture_of(model_type).example(small.config, 4, 24)
    write_onnx(small, probe, ["logits"], folder / "model.onnx")
    return Traced(folder, small, batches(model_type))


def test_onnx(traced: Traced) -> None:
    session = onnxruntime.InferenceSession(
        traced.folder / "model.onnx", providers=["CPUExecutionProvider"]
    )
    for name, batch in traced.batches.items():
        (found,) = session.run(["logits"], {key: value.numpy() for key, value in batch.items()})
        traced.assert_same(name, found)


def test_openvino(traced: Traced) -> None:
    run_check(CONVERT, traced.folder)
    for name, batch in traced.batches.items():
        arrays = {key: value.numpy() for key, value in batch.items()}
        np.savez(traced.folder / f"{name}.npz", **arrays)  # type: ignore[arg-type]
    command = [sys.executable, "-I", "-c", RUN, traced.folder, *traced.batches]
    subprocess.run(command, check=True, capture_output=True)
    for name in traced.batches:
        traced.assert_same(name, np.load(traced.folder / f"{name}.npy"))
