"""What an ONNX export is; that every family's answers are right is in test_traced_families."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper
from onnxruntime.quantization import quantize_dynamic
from onnxruntime.transformers.optimizer import optimize_model
from transformers import AutoConfig, AutoTokenizer

import axsearch
from axsearch.approximations.choices import Choice, Kept
from axsearch.approximations.site import SiteId
from axsearch.errors import AxsearchError, UsageError
from axsearch.export import Bundle, formats, verify_export
from axsearch.export import onnx as onnx_format
from axsearch.export.manifest import NAME, Manifest
from axsearch.models.weights import shrink
from axsearch.space.recipe import Recipe
from axsearch.system.new_process import run_check
from axsearch.testing.exports import bundle_of, write_export
from axsearch.testing.models import random_model
from axsearch.testing.text import reviews, tiny_bert

BENCHMARKS = Path(__file__).parents[2] / "studies" / "benchmarks"
# In a process of its own, as it would send a report of what it does to its makers.
NNCF = """
import json, os, sys
os.environ["NNCF_CI"] = "1"
sys.modules["openvino_telemetry"] = None
import nncf, numpy, onnx
folder = sys.argv[1]
probe = json.load(open(folder + "/probe.json"))["inputs"]
rows = [{name: numpy.array(tensor)[i:i + 1] for name, tensor in probe.items()} for i in range(4)]
model = nncf.quantize(onnx.load(folder + "/model.onnx"), nncf.Dataset(rows))
onnx.save(model, folder + "/int8.onnx")
print(0)
"""

HEADS = {0: (0, 1, 3), 1: (), 2: (), 3: (2,), 4: (0, 1, 2, 3)}
NEURONS = {0: 64, 1: 32, 2: 0, 3: 0, 4: 16}  # layer 2 is gone, layers 1 and 3 have lost a block


def uneven() -> Recipe:
    sites: dict[SiteId, dict[str, Choice]] = {}
    for layer, heads in HEADS.items():
        sites[SiteId(layer, "attention")] = {"heads": Kept(of=4, kept=heads)}
        sites[SiteId(layer, "ffn")] = {"ffn": Kept(of=64, kept=tuple(range(NEURONS[layer])))}
    return Recipe.of(sites)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return bundle_of(tiny_bert(layers=len(HEADS)), uneven())


@pytest.fixture(scope="module")
def exported(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_export(bundle, tmp_path_factory.mktemp("onnx") / "small", "onnx")


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    shutil.copytree(exported, tmp_path / "copy")
    return tmp_path / "copy"


def sign_again(folder: Path) -> None:
    (folder / NAME).unlink()
    Manifest.of(folder, "onnx").write(folder)


def test_it_is_verified_without_what_made_it(exported: Path) -> None:
    found = verify_export(str(exported))
    assert found.format == "onnx"
    assert 0 < found.difference <= 1e-5  # sums in another order
    assert {"model.onnx", "config.json", "tokenizer.json", "recipe.json", "README.md"} <= {
        path.name for path in exported.iterdir()
    }
    assert Recipe.read(exported / "recipe.json") == uneven()


def test_the_file_holds_the_smaller_model_and_nothing_of_this_machine(
    exported: Path, bundle: Bundle
) -> None:
    model = onnx.load(exported / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    numbers = sum(
        int(np.prod(tensor.dims))
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.dims
    )
    parameters = sum(p.numel() for p in bundle.small.parameters())
    assert parameters <= numbers <= parameters + 8
    raw = (exported / "model.onnx").read_bytes()
    assert b"stack_trace" not in raw
    assert str(Path(axsearch.__file__).parent).encode() not in raw
    assert b"site-packages" not in raw
    mode = (exported / "model.onnx").stat().st_mode
    assert mode == (exported / "config.json").stat().st_mode


def test_every_layer_is_fused_with_its_own_number_of_heads(exported: Path, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.log_severity_level = 3  # it warns that the file is for this machine alone
    onnxruntime.InferenceSession(
        exported / "model.onnx", options, providers=["CPUExecutionProvider"]
    )
    nodes = onnx.load(tmp_path / "fused.onnx").graph.node
    count = Counter(node.op_type for node in nodes)
    attentions = sum(bool(heads) for heads in HEADS.values())
    ffns = sum(bool(neurons) for neurons in NEURONS.values())
    # The scale and the transposed keys are part of a product.
    assert count["FusedMatMul"] == count["Softmax"] == attentions == 3
    assert count["BiasGelu"] == ffns == 3
    assert count["SkipLayerNormalization"] == attentions + ffns
    assert count["LayerNormalization"] == 1 + 2  # of the embeddings, and of the removed blocks
    assert not count["Erf"]
    assert not count["Mul"]


def test_batch_and_length_are_free_and_segments_are_taken(exported: Path, bundle: Bundle) -> None:
    session = onnxruntime.InferenceSession(
        exported / "model.onnx", providers=["CPUExecutionProvider"]
    )
    inputs = {i.name: i.shape for i in session.get_inputs()}
    names = ("input_ids", "attention_mask", "token_type_ids")
    assert inputs == {name: ["batch", "length"] for name in names}
    generator = torch.Generator().manual_seed(0)
    for shape in ((1, 1), (7, 50), (2, 64)):
        ids = torch.randint(5, 50, shape, generator=generator)
        answers = []
        for segments in (torch.zeros_like(ids), torch.ones_like(ids)):
            batch = dict(zip(names, (ids, torch.ones_like(ids), segments), strict=True))
            (found,) = session.run(None, {name: value.numpy() for name, value in batch.items()})
            with torch.inference_mode():
                expected = bundle.small(**batch).logits
            torch.testing.assert_close(torch.as_tensor(found), expected, rtol=0, atol=1e-5)
            answers.append(found)
        assert np.abs(answers[0] - answers[1]).max() > 1e-4


def test_top_k_stays_top_k(every_choice: Bundle, every_choice_onnx: Path) -> None:
    nodes = Counter(node.op_type for node in onnx.load(every_choice_onnx / "model.onnx").graph.node)
    assert nodes["TopK"] == 3
    assert nodes["Softmax"] == 1  # of the attention that is left without
    assert verify_export(str(every_choice_onnx)).difference <= 1e-5
    sites = {
        site: {name: choice for name, choice in choices if "topk" not in name}
        for site, choices in every_choice.recipe.sites
    }
    dense = shrink(tiny_bert(layers=4), Recipe.of(sites))
    probe = json.loads((every_choice_onnx / "probe.json").read_text())
    with torch.inference_mode():
        inputs = {name: torch.tensor(value) for name, value in probe["inputs"].items()}
        other = dense(**inputs).logits
    assert (other - torch.tensor(probe["outputs"]["logits"])).abs().max() > 1e-3


def test_answers_have_their_names(tmp_path: Path) -> None:
    base = random_model("bert", "AutoModelForQuestionAnswering", num_hidden_layers=1)
    folder = write_export(bundle_of(base, Recipe.of({})), tmp_path / "small", "onnx")
    outputs = [output.name for output in onnx.load(folder / "model.onnx").graph.output]
    assert outputs == ["start_logits", "end_logits"]
    assert verify_export(str(folder)).difference <= 1e-5


def test_labels_and_tokenizer_are_there_for_readers(exported: Path) -> None:
    config = AutoConfig.from_pretrained(exported)
    assert config.model_type == "bert"
    assert config.num_hidden_layers == 4
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1"}
    assert AutoTokenizer.from_pretrained(exported)("good word1")["input_ids"] == [2, 5, 18, 3]


def _cut_short(folder: Path) -> None:
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1000])


def _change_model(change: Callable[[Any], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        model = onnx.load(folder / "model.onnx")
        change(model)
        onnx.save(model, folder / "model.onnx")

    return edit


def _read_another_file(model: Any) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="probe.json")


def _read_another_file_in_a_branch(model: Any) -> None:
    tensor = helper.make_tensor("t", onnx.TensorProto.FLOAT, [0], [])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/hostname")
    constant = helper.make_node("Constant", [], ["c"], value=tensor)
    branch = helper.make_graph([constant], "b", [], [])
    model.graph.node.append(helper.make_node("If", ["x"], [], then_branch=branch))


def _use_another_domain(model: Any) -> None:
    model.graph.node[0].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut_short, r"model\.onnx is damaged"),
        (_change_model(_read_another_file), r"model\.onnx is not as axsearch writes it"),
        (_change_model(_read_another_file_in_a_branch), r"model\.onnx is not as axsearch"),
        (_change_model(_use_another_domain), r"model\.onnx is not as axsearch writes it"),
        (lambda folder: (folder / "ops.so").write_bytes(b""), r"ops\.so is not as axsearch"),
        (lambda folder: (folder / "model.onnx").unlink(), r"model\.onnx is missing"),
    ],
)  # fmt: skip
def test_what_axsearch_did_not_write_is_not_opened(
    copy: Path, damage: Callable[[Path], None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_check(*arguments: object) -> float:
        raise AssertionError("it was opened")

    monkeypatch.setattr(onnx_format, "run_check", run_check)
    damage(copy)
    sign_again(copy)
    with pytest.raises(UsageError, match=message):
        verify_export(str(copy))


@pytest.mark.parametrize(
    ("value", "message"),
    [(0.5, "differ by"), (float("nan"), "differ by nan"), ([0.5, 0.5, 0.5], "another shape")],
)
def test_other_answers_are_found(copy: Path, value: object, message: str) -> None:
    probe = json.loads((copy / "probe.json").read_text())
    logits = probe["outputs"]["logits"]
    if isinstance(value, list):
        probe["outputs"]["logits"] = [value] * len(logits)
    else:
        logits[0][0] += value
    (copy / "probe.json").write_text(json.dumps(probe))
    sign_again(copy)
    with pytest.raises(AxsearchError, match=message):
        verify_export(str(copy))


def test_onnx_runtime_s_own_tool_quantizes_it(exported: Path, tmp_path: Path) -> None:
    int8 = tmp_path / "int8.onnx"
    quantize_dynamic(exported / "model.onnx", int8)
    kinds = Counter(node.op_type for node in onnx.load(int8).graph.node)
    # Four products of each attention, two of each FFN, the pooler and the head; activations stay.
    assert kinds["MatMulInteger"] == 4 * 3 + 2 * 3 + 2
    assert kinds["MatMul"] == 2 * 3
    found, whole = (logits_of_texts(path, exported) for path in (int8, exported / "model.onnx"))
    assert np.abs(found - whole).max() < 0.1
    assert (found.argmax(1) == whole.argmax(1)).mean() > 0.95


def logits_of_texts(path: Path, folder: Path) -> NDArray[np.float32]:
    """Of 200 texts, padded to the longest."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [text for text, _ in reviews(200, seed=0)]
    batch = tokenizer(texts, padding=True, return_tensors="np")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {i.name: batch[i.name] for i in session.get_inputs()})
    return np.asarray(logits)


def test_onnx_runtime_s_optimizer_fuses_it(exported: Path, tmp_path: Path) -> None:
    optimized = optimize_model(str(exported / "model.onnx"))
    optimized.save_model_to_file(str(tmp_path / "optimized.onnx"))
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert kinds["SkipLayerNormalization"] == 3 + 3
    assert kinds["BiasGelu"] == 3
    found = logits_of_texts(tmp_path / "optimized.onnx", exported)
    assert np.abs(found - logits_of_texts(exported / "model.onnx", exported)).max() < 1e-5
    int8 = tmp_path / "int8.onnx"
    quantize_dynamic(tmp_path / "optimized.onnx", int8)
    assert np.abs(logits_of_texts(int8, exported) - found).max() < 0.1


def test_nncf_quantizes_it(every_choice_onnx: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(every_choice_onnx, tmp_path / "copy"))
    run_check(NNCF, folder)
    kinds = Counter(node.op_type for node in onnx.load(folder / "int8.onnx").graph.node)
    assert kinds["QuantizeLinear"] > 6
    found, whole = (logits_of_texts(folder / name, folder) for name in ("int8.onnx", "model.onnx"))
    assert np.abs(found - whole).max() < 0.2
    assert (found.argmax(1) == whole.argmax(1)).mean() > 0.9


def test_a_missing_package_is_named_with_the_extra(
    bundle: Bundle, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    assert formats()["onnx"].refusal(bundle.measurement) is None
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name)
    )
    reason = "onnxruntime not installed, run pip install 'axsearch\\[export\\]'"
    refusal = formats()["onnx"].refusal(bundle.measurement)
    assert refusal == reason.replace("\\", "")
    with pytest.raises(UsageError, match=reason):
        verify_export(str(exported))


def test_weights_that_one_file_cannot_hold_are_refused(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_format, "LIMIT", 10_000)
    for format in ("onnx", "openvino"):
        refusal = formats()[format].refusal(bundle.measurement)
        assert refusal is not None
        assert "one ONNX file holds 2 GiB" in refusal


def test_half_the_encoder_takes_at_most_0_65_of_the_time() -> None:
    data = json.loads((BENCHMARKS / "results" / "onnx_half_size.json").read_text())
    assert abs(data["workload"]["encoder_parameters"] - 0.5) < 0.01
    assert data["workload"]["batch_size"] == 32
    assert data["machine"]["threads"] == 2
    assert len(set(data["workload"]["heads"])) > 3  # uneven
    assert data["half_relative_to_whole"]["onnx"]["ratio"] <= 0.65
    assert data["fused"]["whole"] == data["fused"]["half"]
