"""ONNX and OpenVINO files of every family, at batch sizes and lengths they were not traced at; and
what the usual tools make of the ONNX file with their defaults.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import onnxslim
import pytest
import torch
from onnxruntime.quantization import quantize_dynamic
from onnxruntime.transformers.optimizer import optimize_model
from torch import Tensor
from transformers import PreTrainedModel

from axsearch.approximations.choices import Choice, Kept, Setting
from axsearch.approximations.one_token.choice import Tokens
from axsearch.approximations.site import OUTSIDE, SELECTABLE_SCORES, STACK, SiteId
from axsearch.export.openvino import CONVERT
from axsearch.graphs.conversion import write_onnx
from axsearch.graphs.nncf import saturates
from axsearch.models.architectures import architecture_of, architectures
from axsearch.models.weights import shrink
from axsearch.space.recipe import Recipe
from axsearch.system.new_process import run_check
from axsearch.testing.models import PICTURES, padded_batch, tiny_model

A0, F0, A1, F1 = (SiteId(layer, kind) for layer in (0, 1) for kind in ("attention", "ffn"))
K = 9

# After the conversion, in the same process.
RUN = """
import numpy
model = openvino.Core().compile_model(target, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
for name in sys.argv[2:]:
    inputs = dict(numpy.load(sys.argv[1] + f"/{name}.npz"))
    numpy.save(sys.argv[1] + f"/{name}.npy", model(inputs)["logits"])
print(len(sys.argv[2:]))
"""


class Traced(NamedTuple):
    folder: Path
    small: PreTrainedModel
    batches: dict[str, dict[str, Tensor]]

    def assert_same(self, name: str, found: object, tolerance: float = 1e-5) -> None:
        with torch.inference_mode():
            expected = self.small(**self.batches[name]).logits
        torch.testing.assert_close(torch.as_tensor(found), expected, rtol=0, atol=tolerance)

    def assert_answers(self, path: Path, tolerance: float = 1e-5) -> None:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for name, batch in self.batches.items():
            (found,) = session.run(["logits"], {key: value.numpy() for key, value in batch.items()})
            self.assert_same(name, found, tolerance)


def recipe(model_type: str) -> Recipe:
    """Uneven heads; layers with top-k, where the family has it; one token in the last layer."""
    topk: dict[str, Choice] = {"topk": Setting(value=K, mode="hard")}
    sites: dict[SiteId, dict[str, Choice]] = {
        A0: {"heads": Kept(of=4, kept=(0, 2, 3))},
        F0: {"ffn": Kept(of=64, kept=tuple(range(0, 64, 2)))},
        A1: {"heads": Kept(of=4, kept=(1,))},
        F1: {"ffn_topk": Setting(value=8, mode="largest")},
    }
    if SELECTABLE_SCORES not in architecture_of(model_type).lacks:
        sites[A0] |= topk
        sites[A1] |= topk
    if STACK in architecture_of(model_type).layout.outside:
        sites[SiteId(OUTSIDE, STACK)] = {"one_token": Tokens(tokens=1)}
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
    write_onnx(small, probe, folder / "model.onnx")
    return Traced(folder, small, batches(model_type))


def test_onnx(traced: Traced) -> None:
    onnx.checker.check_model(traced.folder / "model.onnx", full_check=True)
    traced.assert_answers(traced.folder / "model.onnx")


def test_dynamic_quantization(traced: Traced) -> None:
    int8 = traced.folder / "int8.onnx"
    quantize_dynamic(traced.folder / "model.onnx", int8)
    weights = [i for i in onnx.load(int8).graph.initializer if i.name.endswith("_quantized")]
    assert len(weights) >= 2 * 4  # the products of two layers, of which some families join three
    # Without VNNI, sums of its products saturate: that is the tool's default, and no fault of ours.
    traced.assert_answers(int8, tolerance=0.5 if saturates() else 0.1)


def test_onnx_runtime_s_optimizer(traced: Traced) -> None:
    optimized = optimize_model(str(traced.folder / "model.onnx"))
    optimized.save_model_to_file(str(traced.folder / "optimized.onnx"))
    traced.assert_answers(traced.folder / "optimized.onnx")


def test_onnxslim(traced: Traced) -> None:
    slim = onnxslim.slim(str(traced.folder / "model.onnx"))
    onnx.save(slim, traced.folder / "slim.onnx")
    traced.assert_answers(traced.folder / "slim.onnx")


def test_openvino(traced: Traced) -> None:
    for name, batch in traced.batches.items():
        arrays = {key: value.numpy() for key, value in batch.items()}
        np.savez(traced.folder / f"{name}.npz", **arrays)  # type: ignore[arg-type]
    assert run_check(CONVERT + RUN, traced.folder, *traced.batches) == len(traced.batches)
    for name in traced.batches:
        traced.assert_same(name, np.load(traced.folder / f"{name}.npy"))
