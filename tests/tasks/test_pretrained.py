"""Folders of models as people bring them: opened as they are meant, or refused with the remedy."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from axsearch.errors import UsageError
from axsearch.tasks.model_folder import place_of
from axsearch.tasks.pretrained import (
    check_head,
    dtype_of_file,
    load_config,
    load_model,
    load_tokenizer,
)
from axsearch.tasks.task import Task
from axsearch.testing.text import tiny_tokenizer


@pytest.fixture
def model(base_dir: Path, tmp_path: Path) -> Path:
    """A model folder that a test may change."""
    return Path(shutil.copytree(base_dir, tmp_path / "model"))


def opened(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_model(str(folder), AutoModelForSequenceClassification).state_dict())


def refused(folder: Path, **given: Any) -> str:
    with pytest.raises(UsageError) as caught:
        load_model(str(folder), AutoModelForSequenceClassification, **given)
    message = str(caught.value)
    assert "\n" not in message
    return message


def edit(folder: Path, **entries: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def rewrite(folder: Path, change: Any) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


class TestFolders:
    def test_an_adapter(self, tmp_path: Path) -> None:
        (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        message = refused(tmp_path)
        assert "is an adapter of PEFT without the model" in message
        assert 'SequenceClassification.from_pretrained("' in message
        assert '").merge_and_unload().save_pretrained("merged")' in message

    @pytest.mark.parametrize(
        "head", ["classifier.bias", "score.weight", "classifier.out_proj.bias"]
    )
    def test_an_adapter_whose_base_has_more_classes_than_peft_would_give_it(
        self, tmp_path: Path, head: str
    ) -> None:
        (tmp_path / "adapter_config.json").write_text('{"task_type": "TOKEN_CLS"}')
        shape = (5, 8) if head.endswith("weight") else (5,)
        tensors = {f"base_model.model.{head}": torch.ones(shape)}
        save_file(tensors, tmp_path / "adapter_model.safetensors")
        message = refused(tmp_path)
        assert "AutoPeftModelForTokenClassification.from_pretrained(" in message
        assert '", num_labels=5).merge_and_unload()' in message

    def test_the_checkpoints_of_a_training(self, model: Path, tmp_path: Path) -> None:
        for step in (500, 1000):
            shutil.copytree(model, tmp_path / "run" / f"checkpoint-{step}")
        (tmp_path / "run" / "checkpoint-2000").mkdir()  # killed before it was written
        message = refused(tmp_path / "run")
        assert f"such as the last, {tmp_path / 'run' / 'checkpoint-1000'}." in message

    @pytest.mark.parametrize("name", ["last.ckpt", "weights.pt"])
    def test_weights_alone(self, tmp_path: Path, name: str) -> None:
        torch.save({}, tmp_path / name)
        for given in (tmp_path, tmp_path / name):
            assert f"{tmp_path / name} holds weights without the config" in refused(given)

    @pytest.mark.parametrize(
        ("name", "option"), [("tf_model.h5", "from_tf"), ("flax_model.msgpack", "from_flax")]
    )
    def test_weights_of_another_framework(self, model: Path, name: str, option: str) -> None:
        (model / "model.safetensors").rename(model / name)
        message = refused(model)
        assert f"({name}), which transformers reads up to version 4 only" in message
        assert f"{option}=True" in message

    def test_sentence_transformers(self, model: Path, tmp_path: Path) -> None:
        whole = tmp_path / "whole"
        shutil.copytree(model, whole / "0_Transformer")
        modules = [{"idx": 0, "name": "0", "path": "0_Transformer", "type": "Transformer"}]
        (whole / "modules.json").write_text(json.dumps(modules))
        assert place_of(str(whole)) == str(whole / "0_Transformer")
        assert opened(whole).keys() == opened(model).keys()
        assert len(load_tokenizer(str(whole))) == len(tiny_tokenizer())
        (whole / "modules.json").write_text('[{"path": "1_Pooling"}]')
        assert "1_Pooling has no config.json" in refused(whole)
        (whole / "modules.json").write_text("{}")
        assert "is not as sentence-transformers writes it" in refused(whole)

    def test_a_pickle_and_the_way_out_of_it(self, model: Path) -> None:
        state = load_file(model / "model.safetensors")
        torch.save(state, model / "pytorch_model.bin")
        (model / "model.safetensors").unlink()
        message = refused(model)
        assert "are a pickle (pytorch_model.bin), which could run code" in message
        command = message.partition("in Python: ")[2].partition(", with the class")[0]
        done = subprocess.run(
            [sys.executable, "-c", f"import transformers; {command}"], check=False
        )
        assert done.returncode == 0
        found = opened(model)
        assert all(torch.equal(found[name], tensor) for name, tensor in state.items())

    def test_an_export_without_its_recipe(self, model: Path) -> None:
        edit(model, model_type="axsearch_bert", architectures=["AxsearchModel"])
        assert "config.json is not a valid recipe" in refused(model)

    @pytest.mark.parametrize("name", ["model.onnx", "model.xml"])
    def test_an_export_for_another_runtime(self, model: Path, name: str) -> None:
        (model / "model.safetensors").rename(model / name)
        assert f"holds a model for another runtime ({name})" in refused(model)

    @pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "fp8"])
    def test_a_quantized_model(self, model: Path, method: str) -> None:
        edit(model, quantization_config={"quant_method": method, "bits": 4})
        assert f"is quantized ({method})" in refused(model)

    def test_a_file_of_weights(self, model: Path) -> None:
        with pytest.raises(UsageError, match=rf"is a file; name the folder .*{model.name}\."):
            load_config(str(model / "model.safetensors"))


class TestTensors:
    @pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
    def test_those_of_data_parallel_and_of_a_compiled_model(
        self, model: Path, wrapper: str
    ) -> None:
        expected = opened(model)
        rewrite(model, lambda state: {f"{wrapper}{name}": t for name, t in state.items()})
        found = opened(model)
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())

    def test_those_of_another_wrapper(self, model: Path) -> None:
        rewrite(model, lambda state: {f"network.{name}": t for name, t in state.items()})
        message = refused(model)
        assert "it holds network.bert." in message
        assert "save the model itself, without what it was wrapped in" in message

    def test_another_number_of_classes(self, model: Path) -> None:
        edit(model, id2label={"0": "a", "1": "b", "2": "c"}, label2id={"a": 0, "b": 1, "c": 2})
        message = refused(model)
        assert "classifier.bias has the shape (2,) in the file and (3,) by the config" in message
        assert refused(model, new_head=False) == message
        load_model(str(model), AutoModelForSequenceClassification, new_head=True)

    def test_heads_that_another_tool_removed(self, model: Path) -> None:
        name = "bert.encoder.layer.1.attention.self.query.weight"

        def removed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {**state, name: state[name][:24].clone()}

        rewrite(model, removed)
        message = refused(model, new_head=True)
        assert f"{name} has the shape (24, 32) in the file and (32, 32) by the config" in message
        assert "use the config that they were saved with" in message
        edit(model, pruned_heads={"1": [3]})
        assert "an earlier transformers removed heads" in refused(model)

    @pytest.mark.parametrize(
        ("dtype", "name"),
        [(torch.float32, "float32"), (torch.float16, "float16"), (torch.bfloat16, "bfloat16")],
    )
    def test_the_type_of_a_file(self, model: Path, dtype: torch.dtype, name: str) -> None:
        def written(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {n: t.to(dtype) for n, t in state.items()}

        rewrite(model, written)
        edit(model, dtype="float32")  # whatever the config says
        assert dtype_of_file(str(model), load_config(str(model))) == name

    def test_the_type_of_a_file_with_several(self, model: Path) -> None:
        def mixed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {n: t if "LayerNorm" in n else t.half() for n, t in state.items()}

        rewrite(model, mixed)
        edit(model, dtype="float16")
        assert dtype_of_file(str(model), load_config(str(model))) == "float32"

    @pytest.mark.parametrize("damage", ["cut", "pointer"])
    def test_a_damaged_file(self, model: Path, data_dir: Path, damage: str) -> None:
        path = model / "model.safetensors"
        lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
        path.write_bytes(path.read_bytes()[:100] if damage == "cut" else lfs)
        with pytest.raises(UsageError, match="cannot be loaded") as caught:
            Task.load(str(model), str(data_dir))
        assert ("`git lfs pull`" in str(caught.value)) == (damage == "pointer")


class TestTokenizers:
    @pytest.mark.parametrize("left", [(), ("tokenizer_config.json",)])
    def test_a_folder_without_a_vocabulary(self, model: Path, left: tuple[str, ...]) -> None:
        for path in model.glob("*token*"):
            if path.name not in left:
                path.unlink()
        with pytest.raises(UsageError, match="tokenizer") as caught:
            load_tokenizer(str(model))
        assert "`tokenizer`" in str(caught.value)

    def test_one_from_elsewhere(
        self, model: Path, base_dir: Path, data_dir: Path, tmp_path: Path
    ) -> None:
        for path in model.glob("*token*"):
            path.unlink()
        tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")  # a folder without a config.json
        task = Task.load(str(model), str(data_dir), tokenizer=str(tmp_path / "tokenizer"))
        expected = Task.load(str(base_dir), str(data_dir))
        assert task.split_fingerprints == expected.split_fingerprints

    def test_what_is_said_of_a_task(self, base_dir: Path, data_dir: Path) -> None:
        columns, tokens = Task.load(str(base_dir), str(data_dir)).said
        assert columns == "Task text-classification: reads text and, as the answer, label."
        assert tokens == (
            "400 examples of at most 48 tokens; none is cut; 0.0% of the tokens are unknown."
        )


def test_a_sigmoid_head_is_refused_before_data_are_read(model: Path) -> None:
    edit(model, problem_type="multi_label_classification")
    config = load_config(str(model))
    check_head(str(model), config, None)  # some kind has such a head
    with pytest.raises(UsageError, match="multi-label-classification"):
        Task.load(str(model), "/no/such/data", task="text-classification")
