"""PyTorch as a runtime: threads, devices, and exports that are opened here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from axsearch.errors import UsageError
from axsearch.models.architectures import architectures
from axsearch.models.exported import open_export
from axsearch.runtimes import open_session
from axsearch.runtimes.torch import Torch, TorchSession
from axsearch.space.scenario import Scenario
from axsearch.testing.exports import bundle_of, write_export
from axsearch.testing.models import random_model, random_recipe, short_batch
from axsearch.testing.text import tiny_bert

BATCH = short_batch("bert")


def session_of(model: torch.nn.Module, **given: object) -> TorchSession:
    asked: dict[str, object] = {"precision": "float32", "threads": None, "device": "cpu"}
    return Torch().open(model, **{**asked, **given})  # type: ignore[arg-type]


@pytest.mark.parametrize("more", [0, 1])
def test_threads_are_the_processes_while_it_is_quiet(more: int) -> None:
    before = torch.get_num_threads()
    threads = before + more if more else None
    with session_of(tiny_bert(), threads=threads) as session:
        assert torch.get_num_threads() == before
        with session.quiet():
            assert torch.get_num_threads() == before + more
        assert torch.get_num_threads() == before


def test_a_model_on_its_device_is_not_copied() -> None:
    model = tiny_bert()
    with session_of(model) as session:
        assert session.model is model


def test_a_model_for_another_device_is_copied_and_stays_where_it_is() -> None:
    model = tiny_bert()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with session_of(model, device="meta") as session:
        there = [*session.model.parameters(), *session.model.buffers()]
        assert {tensor.device.type for tensor in there} == {"meta"}
        assert {tensor.device.type for tensor in session.prepare(BATCH).values()} == {"meta"}
        assert [*session.model.state_dict()] == [*before]
        assert model.device.type == "cpu"
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())


def test_shared_parameters_stay_shared_on_another_device() -> None:
    model = random_model("gpt2", "AutoModelForCausalLM")
    assert model.lm_head.weight is model.transformer.wte.weight
    with session_of(model, device="meta") as session:
        copied = session.model
        assert copied.lm_head.weight is copied.transformer.wte.weight


def test_a_failed_pass_leaves_no_hooks() -> None:
    model = tiny_bert()
    model.bert.encoder.layer[1].intermediate = torch.nn.Identity()  # of another width
    with session_of(model) as session, pytest.raises(RuntimeError, match="cannot be multiplied"):
        session.layer_times([{name: tensor.clamp(max=50) for name, tensor in BATCH.items()}])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


# Folders.


@pytest.mark.parametrize("kind", [*architectures()])
def test_an_export_of_every_family_is_opened_here(kind: str, tmp_path: Path) -> None:
    bundle = bundle_of(random_model(kind), random_recipe(kind, 1))
    folder = write_export(bundle, tmp_path / "out")
    (folder / "modeling_axsearch.py").write_text("raise SystemExit('code of a folder was run')")
    opened = open_export(folder)
    with torch.inference_mode():
        found, expected = (m(**bundle.probe_inputs).logits for m in (opened, bundle.small))
    assert found.equal(expected)
    assert not opened.training
    with session_of(folder) as session:
        assert session.run(session.prepare(bundle.probe_inputs))["logits"].equal(expected)
        assert len(session.layer_times([bundle.probe_inputs])) > 1


def exported(folder: Path) -> Path:
    return write_export(bundle_of(random_model("bert"), random_recipe("bert", 1)), folder / "out")


def test_an_export_that_lists_shapes_in_place_of_layers_is_opened(tmp_path: Path) -> None:
    bundle = bundle_of(random_model("bert"), random_recipe("bert", 1))
    folder = write_export(bundle, tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    shapes = [{"layer": layer, "heads": 4} for layer in config["axsearch"]["layers"]]
    config["axsearch"]["layers"] = shapes
    (folder / "config.json").write_text(json.dumps(config))
    with torch.inference_mode():
        found = open_export(folder)(**bundle.probe_inputs).logits
    assert found.equal(bundle.probe_outputs["logits"])


def test_a_model_in_use_does_not_need_its_file(tmp_path: Path) -> None:
    folder = exported(tmp_path)
    with open_session(folder, Scenario()) as session:
        before = session.run(session.prepare(BATCH))["logits"]
        weights = folder / "model.safetensors"
        weights.write_bytes(bytes(weights.stat().st_size))  # in place, where it is mapped
        assert session.run(session.prepare(BATCH))["logits"].equal(before)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("model_type", "axsearch_t5"),
        ("model_type", None),
        ("axsearch", None),
        ("axsearch", {"base_class": "BertModel", "auto_class": "pipeline"}),
        ("axsearch", {"base_class": "GenerationMixin", "auto_class": "AutoModelForCausalLM"}),
    ],
)
def test_a_config_that_names_another_model_is_refused(
    tmp_path: Path, entry: str, value: object
) -> None:
    folder = exported(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, entry: value}))
    with pytest.raises(UsageError, match=r"config\.json names a model that axsearch does not"):
        open_export(folder)


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    folder = exported(tmp_path)
    path = folder / "model.safetensors"
    state = load_file(path)
    name = next(iter(state))
    for changed, words in (
        ({k: v for k, v in state.items() if k != name}, name),
        ({**state, "more": torch.zeros(2)}, "more"),
        ({**state, name: torch.zeros(1, 1)}, "cannot be opened"),
    ):
        save_file(changed, path, metadata={"format": "pt"})
        with pytest.raises(UsageError, match=words):
            open_export(folder)
    path.write_bytes(b"nonsense")
    with pytest.raises(UsageError, match="cannot be opened"):
        open_export(folder)
    config = json.loads((folder / "config.json").read_text())
    config["axsearch"]["layers"] = [{"layer": 0}]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="cannot be opened"):
        open_export(folder)
    (folder / "config.json").write_text("[")
    with pytest.raises(UsageError, match=r"config\.json is missing or damaged"):
        open_export(folder)


def test_a_plain_checkpoint_that_is_no_export_is_refused(tmp_path: Path) -> None:
    tiny_bert().save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="names a model that axsearch does not write"):
        open_export(tmp_path)
