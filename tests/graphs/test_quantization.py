"""int8 by the tools made for it, and the files that are kept of converted models."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from transformers import PreTrainedModel

from axsearch.approximations.choices import Kept
from axsearch.approximations.one_token.choice import Tokens
from axsearch.approximations.site import OUTSIDE, STACK, SiteId
from axsearch.errors import AxsearchError, UsageError
from axsearch.graphs import conversion, dynamic, nncf, structures
from axsearch.graphs.conversion import content_key, converted, onnx_file, write_onnx
from axsearch.graphs.onnx import ConversionError, example
from axsearch.models.weights import shrink
from axsearch.runtimes import open_session
from axsearch.space.recipe import Recipe
from axsearch.space.scenario import Scenario
from axsearch.testing.models import random_model, random_recipe, short_batch


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_key_is_that_of_weights_and_structure() -> None:
    first, second = random_model("bert"), random_model("bert")
    assert content_key(first) == content_key(second)
    with torch.no_grad():
        second.classifier.bias[0] += 1
    assert content_key(first) != content_key(second)
    assert content_key(shrink(first, random_recipe("bert", 0))) != content_key(first)


def test_a_model_is_converted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    real = structures.graph_of

    def graph_of(*given: Any) -> Any:
        made.append("graph")
        return real(*given)

    def quantize(source: Path, folder: Path) -> None:
        made.append("int8")
        dynamic.quantize(source, folder)

    monkeypatch.setattr(conversion.structures, "graph_of", graph_of)
    model = random_model("bert")
    for _ in range(2):
        with converted(model, ["int8"], quantize) as folder:
            assert (folder / "model.onnx").is_file()
        with onnx_file(model) as path:
            onnx.checker.check_model(onnx.load(path), full_check=True)
    assert made == ["graph", "int8"]


def test_onnx_runtimes_int8_has_a_scale_for_each_output(tmp_path: Path) -> None:
    model = random_model("bert")
    write_onnx(model, example(model), tmp_path / "float32.onnx")
    dynamic.quantize(tmp_path / "float32.onnx", tmp_path)
    graph = onnx.load(tmp_path / "model.onnx").graph
    kinds = {node.op_type for node in graph.node}
    assert {"MatMulInteger", "DynamicQuantizeLinear"} <= kinds
    scales = [t for t in graph.initializer if t.name.endswith("weight.permuted(1,0)_scale")]
    assert scales
    assert all(len(tensor.dims) == 1 and tensor.dims[0] > 1 for tensor in scales[:-1])
    bytes_of = {t.name: onnx.numpy_helper.to_array(t).itemsize for t in graph.initializer}
    assert bytes_of["model.bert.embeddings.word_embeddings.weight_quantized"] == 1


def test_nncfs_process_says_why_it_cannot_and_goes_on(tmp_path: Path) -> None:
    model = random_model("bert")
    rows = [{name: t[:1] for name, t in example(model).items()}]
    (tmp_path / "none.onnx").write_bytes(b"no model")
    with pytest.raises(AxsearchError, match="NNCF cannot quantize this model: "):
        nncf.quantize(tmp_path / "none.onnx", tmp_path, rows)
    process = nncf._quantizer._process
    assert process is not None
    write_onnx(model, example(model), tmp_path / "model.onnx")
    nncf.quantize(tmp_path / "model.onnx", tmp_path, rows, structure="one")
    assert nncf._quantizer._process is process
    if (maps := Path(f"/proc/{process.pid}/maps")).exists():  # torch is most of what it would load
        assert "openvino" in maps.read_text()
        assert "libtorch" not in maps.read_text()
    assert "FakeQuantize" in (tmp_path / "model.xml").read_text()
    assert not (tmp_path / nncf.EXAMPLES).exists()
    process.kill()
    process.wait()
    nncf.quantize(tmp_path / "model.onnx", tmp_path, rows, structure="one")  # in a new one
    nncf._quantizer.end()


def test_other_examples_are_another_quantization() -> None:
    rows = [{"input_ids": torch.tensor([[1, 2, 3]])}]
    assert nncf.fingerprint(rows) == nncf.fingerprint([dict(rows[0])])
    assert nncf.fingerprint(rows) != nncf.fingerprint([{"input_ids": torch.tensor([[1, 2, 4]])}])
    assert nncf.fingerprint(rows) != nncf.fingerprint(rows * 2)


def test_what_is_timed_only_is_not_kept(tmp_path: Path) -> None:
    model = shrink(random_model("bert"), Recipe.of({}))
    scenario = Scenario(runtime="onnxruntime", precision="int8", threads=1)
    with open_session(model, scenario, lasting=False) as session:
        assert session.run(session.prepare(short_batch("bert")))["logits"].shape[0] == 3
    assert not any(path.is_file() for path in (tmp_path / "cache").rglob("*.onnx"))


def test_nncf_quantizes_a_family_with_one_kind_of_text() -> None:
    """Its table of segments has one row, and its tokenizer does not name them."""
    model = random_model("roberta")
    examples = [{name: t[:1] for name, t in example(model, segments=False).items()}] * 4
    assert "token_type_ids" in example(model)
    scenario = Scenario(runtime="openvino", precision="int8", threads=1)
    batch = short_batch("roberta")
    for lasting in (True, False):
        with open_session(model, scenario, examples, lasting=lasting) as session:
            assert session.run(session.prepare(batch))["logits"].shape == (3, 2)


def test_nncf_quantizes_a_last_layer_that_computes_one_token() -> None:
    """Its products of several matrices at once made SmoothQuant fail."""
    model = random_model("bert")
    narrowed = Recipe.of({SiteId(OUTSIDE, STACK): {"one_token": Tokens(tokens=1)}})
    batch = short_batch("bert")
    examples = [{name: t[row : row + 1] for name, t in batch.items()} for row in range(3)] * 4
    scenario = Scenario(runtime="openvino", precision="int8", threads=1)
    with torch.no_grad():
        expected = model(**batch).logits
    apart = []
    for one in (model, shrink(model, narrowed)):
        with open_session(one, scenario, examples) as session:
            found = session.run(session.prepare(batch))["logits"]
        apart.append(float((found - expected).abs().max()))
    assert 0 < apart[1] < 2 * apart[0] < 0.2 * expected.abs().max()


def test_weights_that_one_file_cannot_hold_are_refused_before_tracing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(structures, "LIMIT", 1000)
    monkeypatch.setattr(structures, "traced", None)
    model = random_model("bert")
    with pytest.raises(ConversionError, match="bytes in float32, and an ONNX graph holds 2 GiB"):
        structures.graph_of(model, example(model))


def test_a_file_that_cannot_be_opened_is_said(tmp_path: Path) -> None:
    for runtime, name in (("onnxruntime", "model.onnx"), ("openvino", "model.xml")):
        with pytest.raises(UsageError, match=f"{name} is missing; export the model again"):
            open_session(tmp_path, Scenario(runtime=runtime))
        (tmp_path / name).write_bytes(b"no model")
        with pytest.raises(UsageError, match=f"{name} cannot be opened: .*; export the model"):
            open_session(tmp_path, Scenario(runtime=runtime))


def each_once(graph_of: Callable[..., Any]) -> Callable[..., Any]:
    """The graph of each model is made once: what is quantized twice needs no second one."""
    made: dict[str, Any] = {}

    def known(model: PreTrainedModel, inputs: Any) -> Any:
        key = content_key(model)
        if key not in made:
            made[key] = graph_of(model, inputs)
        return copy.deepcopy(made[key])

    return known


@pytest.mark.parametrize(
    ("kind", "reuses"), [("bert", True), ("deberta-v2", False), ("gpt2", False)]
)
def test_a_timed_model_takes_what_nncf_found_for_another_of_its_structure(
    kind: str, reuses: bool, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """It has the bytes that it would have if it was quantized by itself. DeBERTa and GPT-2 write
    their numbers of heads into their graphs, so their models are no such.
    """
    monkeypatch.setattr(nncf, "_quantizer", nncf._Quantizer())
    request.addfinalizer(nncf._quantizer.end)
    monkeypatch.setattr(structures, "graph_of", each_once(structures.graph_of))
    base, scenario = random_model(kind), Scenario(runtime="openvino", precision="int8", threads=1)
    batch = short_batch(kind)
    examples = [{name: t[row : row + 1] for name, t in batch.items()} for row in range(3)] * 4
    kept = {SiteId(0, "attention"): {"heads": Kept(of=4, kept=(0, 2))},
            SiteId(1, "ffn"): {"ffn": Kept(of=64, kept=tuple(range(24)))}}  # fmt: skip
    narrowed = {SiteId(OUTSIDE, STACK): {"one_token": Tokens(tokens=1)}}
    sizes: dict[str, list[int]] = {"first": [], "second": []}
    answers: dict[str, list[torch.Tensor]] = {"first": [], "second": []}
    for sites in ({}, narrowed):
        for model in (shrink(base, Recipe.of(sites)), shrink(base, Recipe.of({**kept, **sites}))):
            with open_session(model, scenario, examples, lasting=False) as session:
                answers["first"].append(session.run(session.prepare(batch))["logits"])
                sizes["first"].append(session.size_bytes)
    for sites in ({}, narrowed):
        for model in (shrink(base, Recipe.of(sites)), shrink(base, Recipe.of({**kept, **sites}))):
            nncf._quantizer.end()  # which forgets the structures
            with open_session(model, scenario, examples, lasting=False) as session:
                answers["second"].append(session.run(session.prepare(batch))["logits"])
                sizes["second"].append(session.size_bytes)
    for found, wanted in zip(sizes["first"], sizes["second"], strict=True):
        assert found == pytest.approx(wanted, rel=0.005)  # of which names take some
    # Only with the weights of another model does one answer otherwise.
    pairs = zip(answers["first"], answers["second"], strict=True)
    taken = [not torch.allclose(one, other, atol=1e-6) for one, other in pairs]
    assert all(one.isfinite().all() for one in answers["first"])
    assert taken == [False, reuses, False, reuses]
