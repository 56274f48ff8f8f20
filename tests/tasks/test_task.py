"""Task: loading a model with its data, and refusing what does not fit together."""

from __future__ import annotations

import csv
import itertools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from axsearch.errors import UsageError
from axsearch.models.architectures import architecture_of
from axsearch.models.fingerprint import model_fingerprint
from axsearch.tasks import model_folder, pretrained
from axsearch.tasks import task as task_module
from axsearch.tasks.kinds.sequences import encode
from axsearch.tasks.kinds.text_classification import TextClassification
from axsearch.tasks.pretrained import input_length, load_model, load_tokenizer
from axsearch.tasks.task import Task
from axsearch.testing.models import tiny_model
from axsearch.testing.text import NEUTRAL, reviews, tiny_bert, tiny_tokenizer, write_csv


@pytest.fixture
def model_copy(base_dir: Path, tmp_path: Path) -> Path:
    """A model folder that a test may damage."""
    return Path(shutil.copytree(base_dir, tmp_path / "model"))


def edit_config(folder: Path, **entries: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def edit_weights(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def refused(model: object, data: object, **arguments: Any) -> str:
    with pytest.raises(UsageError) as error:
        Task.load(str(model), str(data), **arguments)
    message = str(error.value)
    assert "\n" not in message
    return message


def write_pairs(folder: Path, count: int = 60) -> Path:
    with (folder / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("sentence1", "sentence2", "label"))
        for (first, label), (second, _) in zip(reviews(count, 0), reviews(count, 1), strict=True):
            writer.writerow((first, second, label))
    return folder


class TestLoad:
    def test_splits(self, base_dir: Path, data_dir: Path) -> None:
        task = Task.load(str(base_dir), str(data_dir))
        splits = (task.calibration, task.search, task.holdout)
        assert [(split.name, len(split)) for split in splits] == [
            ("calibration", 240), ("search", 80), ("holdout", 80)
        ]  # fmt: skip
        assert (task.metric, task.notes, task.seed) == ("accuracy", (), 0)
        texts, labels = zip(*reviews(80, seed=1), strict=True)
        tokenizer = tiny_tokenizer()
        assert [e["input_ids"] for e in task.search.inputs] == tokenizer(list(texts))["input_ids"]
        assert tuple(task.search.targets) == labels

    def test_model_is_fp32_sdpa_and_evaluates(self, model_copy: Path, data_dir: Path) -> None:
        edit_weights(model_copy, lambda state: {n: t.half() for n, t in state.items()})
        model = Task.load(str(model_copy), str(data_dir)).model
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert model.config._attn_implementation == "sdpa"
        assert not model.training

    def test_calibration_is_drawn_from_train(
        self, base_dir: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        everything = Task.load(str(base_dir), str(data_dir)).calibration.inputs
        monkeypatch.setattr(task_module, "CALIBRATION_EXAMPLES", 50)
        drawn = Task.load(str(base_dir), str(data_dir)).calibration
        other = Task.load(str(base_dir), str(data_dir), seed=1).calibration
        assert len(drawn) == 50
        assert all(example in everything for example in drawn.inputs)
        assert drawn.fingerprint != other.fingerprint

    def test_training_has_more_of_train_than_calibration(
        self, base_dir: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        everything = Task.load(str(base_dir), str(data_dir)).training
        assert len(everything) == 240
        monkeypatch.setattr(task_module, "CALIBRATION_EXAMPLES", 50)
        monkeypatch.setattr(task_module, "TRAINING_EXAMPLES", 100)
        task = Task.load(str(base_dir), str(data_dir))
        assert len(task.training) == 100
        assert all(example in task.training.inputs for example in task.calibration.inputs)
        assert all(example in everything.inputs for example in task.training.inputs)

    def test_search_examples_draws_a_seeded_subset(self, base_dir: Path, data_dir: Path) -> None:
        def load(**arguments: Any) -> Task:
            return Task.load(str(base_dir), str(data_dir), **arguments)

        full, drawn = load(), load(search_examples=20)
        assert len(drawn.search) == 20
        positions = [full.search.inputs.index(example) for example in drawn.search.inputs]
        assert positions == sorted(set(positions))  # distinct examples, in their order
        assert list(drawn.search.targets) == [full.search.targets[i] for i in positions]
        assert drawn.search.fingerprint == load(search_examples=20).search.fingerprint
        assert drawn.search.fingerprint != load(search_examples=20, seed=1).search.fingerprint
        assert drawn.holdout.fingerprint == full.holdout.fingerprint
        assert drawn.calibration.fingerprint == full.calibration.fingerprint

    def test_more_search_examples_than_there_are(self, base_dir: Path, data_dir: Path) -> None:
        task = Task.load(str(base_dir), str(data_dir), search_examples=1000)
        assert len(task.search) == 80

    @pytest.mark.parametrize("count", [0, -1])
    def test_impossible_number_of_search_examples(
        self, base_dir: Path, data_dir: Path, count: int
    ) -> None:
        assert str(count) in refused(base_dir, data_dir, search_examples=count)

    def test_cut_splits_are_disjoint_and_said(self, base_dir: Path, tmp_path: Path) -> None:
        pairs = itertools.product(NEUTRAL[:5], NEUTRAL[5:15])
        rows = [(f"{a} {b}", number % 2) for number, (a, b) in enumerate(pairs)]
        write_csv(tmp_path / "train.csv", list(rows), ("text", "label"))
        task = Task.load(str(base_dir), str(tmp_path), seed=4)
        assert len(task.notes) == 3
        assert "it has seen their answers" in task.notes[2]
        # Whatever the seed, or what was held out of a fine-tuning could be trained on.
        other = Task.load(str(base_dir), str(tmp_path), seed=5)
        assert other.holdout.fingerprint == task.holdout.fingerprint
        assert other.search.fingerprint == task.search.fingerprint
        parts = [
            {tuple(example["input_ids"]) for example in split.inputs}
            for split in (task.calibration, task.search, task.holdout)
        ]
        assert sum(map(len, parts)) == len(set.union(*parts)) == len(rows)

    def test_pairs_carry_token_types(self, base_dir: Path, tmp_path: Path) -> None:
        task = Task.load(str(base_dir), str(write_pairs(tmp_path)))
        separator = tiny_tokenizer().sep_token_id
        for example in task.calibration.inputs:
            first = example["input_ids"].index(separator) + 1
            types = example["token_type_ids"]
            assert types == [0] * first + [1] * (len(types) - first)
            assert 1 in types
        _, batch = next(task.calibration.batches(4))
        assert set(batch) == {"input_ids", "token_type_ids", "attention_mask"}

    def test_columns_metric_and_task_are_handed_on(self, base_dir: Path, tmp_path: Path) -> None:
        write_csv(tmp_path / "train.csv", list(reviews(60, 0)), ("body", "kind"))
        task = Task.load(
            str(base_dir),
            str(tmp_path),
            task="glue/mrpc",
            text_columns=["body"],
            label_column="kind",
        )
        assert task.metric == "f1"

    def test_labels_called_as_in_the_config(self, model_copy: Path, tmp_path: Path) -> None:
        edit_config(model_copy, id2label={"0": "good", "1": "bad"}, label2id={"good": 0, "bad": 1})
        rows = [(text, ("bad", "good")[label]) for text, label in reviews(60, 0)]
        for split in ("train", "validation", "test"):
            write_csv(tmp_path / f"{split}.csv", list(rows), ("text", "label"))
        task = Task.load(str(model_copy), str(tmp_path))
        assert list(task.search.targets) == [1 - label for _, label in reviews(60, 0)]

    def test_hub_name(
        self, base_dir: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[tuple[str, dict[str, Any]]] = []

        def redirected(load: Callable[..., Any]) -> Callable[..., Any]:
            def loader(name: str, **options: Any) -> Any:
                calls.append((name, options))
                return load(str(base_dir), **options)

            return loader

        for owner, method in (
            (PreTrainedConfig, "get_config_dict"),
            (AutoConfig, "from_pretrained"),
            (AutoTokenizer, "from_pretrained"),
        ):
            loader = redirected(getattr(owner, method))
            stand_in = type("StandIn", (), {method: staticmethod(loader)})
            monkeypatch.setattr(pretrained, owner.__name__, stand_in)
        loader = redirected(TextClassification.auto_class.from_pretrained)
        stand_in = type("StandIn", (), {"from_pretrained": staticmethod(loader)})
        monkeypatch.setattr(TextClassification, "auto_class", stand_in)
        monkeypatch.setattr(model_folder, "check_on_hub", lambda *_: None)
        task = Task.load("org/tiny", str(data_dir))
        assert task.model_name == "org/tiny"
        assert {name for name, _ in calls} == {"org/tiny"}
        assert not any(options.get("trust_remote_code") for _, options in calls)
        assert calls[-1][1]["use_safetensors"] is True

    def test_hub_name_that_does_not_load(
        self, data_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(name: str) -> None:
            raise OSError("We couldn't connect to the hub.\nA long story follows.")

        monkeypatch.setattr(model_folder, "check_on_hub", lambda *_: None)
        monkeypatch.setattr(pretrained.PreTrainedConfig, "get_config_dict", fail)
        message = refused("org/none", data_dir)
        assert message == "org/none cannot be loaded as a model: We couldn't connect to the hub."


class TestRefusedModel:
    @pytest.mark.parametrize("name", ["/no/such/model", "./none", "a/b/c"])
    def test_missing_folder(self, data_dir: Path, name: str) -> None:
        message = refused(name, data_dir)
        assert message == f"The model folder {name} does not exist or holds no config.json."

    def test_folder_without_config(self, tmp_path: Path, data_dir: Path) -> None:
        assert f"{tmp_path} does not exist or holds no config.json" in refused(tmp_path, data_dir)

    @pytest.mark.parametrize("architectures", [None, [], ["BertModel"], ["BertForMaskedLM"]])
    def test_no_classification_head(
        self, model_copy: Path, data_dir: Path, architectures: list[str] | None
    ) -> None:
        edit_config(model_copy, architectures=architectures)
        message = refused(model_copy, data_dir)
        assert f"{model_copy} has no head for any task" in message
        assert "axsearch finetune" in message

    @pytest.mark.parametrize("model_type", ["t5", "nonsense", None])
    def test_unsupported_family(
        self, model_copy: Path, data_dir: Path, model_type: str | None
    ) -> None:
        edit_config(model_copy, model_type=model_type)
        message = refused(model_copy, data_dir)
        assert f"{model_type!r} are not supported" in message
        assert re.search("axsearch supports .*bert", message)

    def test_a_model_that_reads_no_text(self, model_copy: Path, data_dir: Path) -> None:
        tiny_model("vit").save_pretrained(model_copy)
        assert "does not read text" in refused(model_copy, data_dir)

    def test_a_decoder_of_an_encoders_family(self, model_copy: Path, data_dir: Path) -> None:
        edit_config(model_copy, is_decoder=True)
        assert "is_decoder" in refused(model_copy, data_dir)

    def test_a_decoder_without_padding(self, model_copy: Path, data_dir: Path) -> None:
        tiny_model("gpt2").save_pretrained(model_copy)
        edit_config(model_copy, pad_token_id=None)
        assert "no padding token" in refused(model_copy, data_dir)

    def test_code_in_a_model_folder_is_not_run(self, model_copy: Path, data_dir: Path) -> None:
        (model_copy / "evil.py").write_text("raise SystemExit('run')\n")
        edit_config(model_copy, auto_map={"AutoModelForSequenceClassification": "evil.Evil"})
        Task.load(str(model_copy), str(data_dir))
        edit_config(model_copy, model_type="evil", auto_map={"AutoConfig": "evil.Evil"})
        assert "'evil' are not supported" in refused(model_copy, data_dir)

    @pytest.mark.parametrize("text", ["{", "", "[]", '"bert"', "null"])
    def test_damaged_config(self, model_copy: Path, data_dir: Path, text: str) -> None:
        (model_copy / "config.json").write_text(text)
        assert str(model_copy) in refused(model_copy, data_dir)

    @pytest.mark.parametrize(
        "entries",
        [
            {"hidden_size": "wide"},
            {"num_attention_heads": 5},
            {"hidden_size": 16},
            {"vocab_size": 10},
            {"hidden_act": "nonsense"},
        ],
        ids=str,
    )
    def test_contradictory_config(
        self, model_copy: Path, data_dir: Path, entries: dict[str, Any]
    ) -> None:
        edit_config(model_copy, **entries)
        assert str(model_copy) in refused(model_copy, data_dir)

    @pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
    def test_truncated_weights(self, model_copy: Path, data_dir: Path, share: float) -> None:
        path = model_copy / "model.safetensors"
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        message = refused(model_copy, data_dir)
        assert f"weights of {model_copy} (model.safetensors) cannot be loaded" in message

    def test_missing_weights(self, model_copy: Path, data_dir: Path) -> None:
        (model_copy / "model.safetensors").unlink()
        assert f"weights of {model_copy}" in refused(model_copy, data_dir)

    def test_pickled_weights_are_not_read(self, model_copy: Path, data_dir: Path) -> None:
        state = load_file(model_copy / "model.safetensors")
        (model_copy / "model.safetensors").unlink()
        torch.save(state, model_copy / "pytorch_model.bin")
        assert f"weights of {model_copy}" in refused(model_copy, data_dir)

    @pytest.mark.parametrize(
        "name", ["classifier.weight", "bert.encoder.layer.1.output.dense.weight"]
    )
    def test_weights_without_a_tensor(self, model_copy: Path, data_dir: Path, name: str) -> None:
        # transformers fills it with random numbers and only logs it.
        edit_weights(model_copy, lambda state: {n: t for n, t in state.items() if n != name})
        assert str(model_copy) in refused(model_copy, data_dir)

    def test_more_layers_in_the_config_than_in_the_weights(
        self, model_copy: Path, data_dir: Path
    ) -> None:
        edit_config(model_copy, num_hidden_layers=4)
        assert str(model_copy) in refused(model_copy, data_dir)

    @pytest.mark.parametrize("content", [None, "", "{", "{}"])
    def test_damaged_tokenizer(self, model_copy: Path, data_dir: Path, content: str | None) -> None:
        path = model_copy / "tokenizer.json"
        if content is None:
            path.unlink()
        else:
            path.write_text(content)
        assert f"tokenizer of {model_copy} cannot be loaded" in refused(model_copy, data_dir)


class TestHead:
    """A task that does not fit the head is refused before the weights are opened."""

    CLASS = "BertForTokenClassification"

    @pytest.fixture(autouse=True)
    def _weights_stay_closed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def never(*_: object, **__: object) -> None:
            raise AssertionError("the weights were loaded")

        monkeypatch.setattr(task_module, "load_model", never)

    def test_data_of_another_task(self, model_copy: Path, data_dir: Path) -> None:
        edit_config(model_copy, architectures=[self.CLASS])
        message = refused(model_copy, data_dir)
        assert f"has a head for token-classification ({self.CLASS})" in message
        assert "does not fit text-classification" in message

    def test_task_that_was_asked_for(self, base_dir: Path) -> None:
        # The data are not even looked at.
        message = refused(base_dir, "/no/such/data", task="question-answering")
        assert "which does not fit question-answering" in message

    def test_number_of_outputs(self, model_copy: Path, base_dir: Path, data_dir: Path) -> None:
        message = refused(base_dir, data_dir, task="regression")
        assert "The model's head has 2 classes, which does not fit regression" in message
        edit_config(model_copy, id2label={"0": "x"}, label2id={"x": 0}, problem_type="regression")
        message = refused(model_copy, data_dir)
        assert "gives one number, as for regression, which does not fit text-class" in message

    def test_metric_of_another_task(self, base_dir: Path, data_dir: Path) -> None:
        message = refused(base_dir, data_dir, metric="pearson")
        assert message == (
            "Metric 'pearson' does not fit text-classification; choose accuracy, f1, "
            "matthews_correlation."
        )

    def test_labels_that_do_not_fit(self, base_dir: Path, tmp_path: Path) -> None:
        rows = [(text, f"class {i % 9}") for i, (text, _) in enumerate(reviews(60, 0))]
        write_csv(tmp_path / "train.csv", list(rows), ("text", "label"))
        message = refused(base_dir, tmp_path)
        assert "'class 0', 'class 1'" in message
        assert "'class 5', … do not fit" in message.replace(") do", " do")


class TestTokenizer:
    def test_padding_and_truncation_of_the_file_are_reset(
        self, model_copy: Path, data_dir: Path
    ) -> None:
        tokenizer = tiny_tokenizer()
        tokenizer.backend_tokenizer.enable_padding(length=40)
        tokenizer.backend_tokenizer.enable_truncation(6)
        tokenizer.backend_tokenizer.save(str(model_copy / "tokenizer.json"))
        built_in = PreTrainedTokenizerFast(tokenizer_file=str(model_copy / "tokenizer.json"))
        assert built_in.backend_tokenizer.padding is not None
        assert built_in.backend_tokenizer.truncation is not None
        task = Task.load(str(model_copy), str(data_dir))
        words = [len(text.split()) for text, _ in reviews(80, seed=1)]
        assert task.search.lengths.tolist() == [count + 2 for count in words]
        assert max(words) > 6
        assert all(all(example["attention_mask"]) for example in task.search.inputs)
        backend = load_tokenizer(str(model_copy)).backend_tokenizer
        assert (backend.padding, backend.truncation) == (None, None)

    def test_examples_are_cut_to_the_length(self) -> None:
        tokenizer = tiny_tokenizer()
        (long, short) = encode(tokenizer, [("word1 " * 60,), ("word2",)], 48)
        assert (len(long["input_ids"]), long["input_ids"][-1]) == (48, tokenizer.sep_token_id)
        assert len(short["input_ids"]) == 3

    @pytest.mark.parametrize(
        ("tokenizer_length", "positions", "length"),
        [(48, 64, 48), (512, 64, 64), (10**30, 1024, 1024), (128, 512, 128)],
    )
    def test_input_length(self, tokenizer_length: int, positions: int, length: int) -> None:
        tokenizer = tiny_tokenizer()
        tokenizer.model_max_length = tokenizer_length
        config = BertConfig(max_position_embeddings=positions)
        assert input_length(tokenizer, config) == length

    def test_longest(self, base_dir: Path, data_dir: Path) -> None:
        task = Task.load(str(base_dir), str(data_dir))
        rows = [*reviews(240, seed=0), *reviews(80, seed=1)]
        assert task.longest == max(len(text.split()) for text, _ in rows) + 2


class TestFingerprint:
    def test_fingerprints_of_a_task(self, base_dir: Path, data_dir: Path, tmp_path: Path) -> None:
        task, again = (Task.load(str(base_dir), str(data_dir)) for _ in range(2))
        splits = (task.calibration, task.search, task.holdout)
        assert len({split.fingerprint for split in splits}) == 3
        assert task.search.fingerprint == again.search.fingerprint
        shutil.copytree(data_dir, tmp_path, dirs_exist_ok=True)
        path = tmp_path / "validation.csv"
        path.write_text(path.read_text().replace("word1 ", "word2 ", 1))
        changed = Task.load(str(base_dir), str(tmp_path))
        assert changed.search.fingerprint != task.search.fingerprint
        assert changed.holdout.fingerprint == task.holdout.fingerprint


class TestModelFingerprint:
    def test_same_weights(self) -> None:
        assert model_fingerprint(tiny_bert()) == model_fingerprint(tiny_bert())

    def test_one_weight_changed(self) -> None:
        changed = tiny_bert()
        with torch.no_grad():
            changed.bert.encoder.layer[2].output.dense.bias[7] += 1e-3
        assert model_fingerprint(changed) != model_fingerprint(tiny_bert())

    def test_same_tensors_cut_into_other_heads(self) -> None:
        other = tiny_bert()
        other.config.num_attention_heads = 8
        assert model_fingerprint(other) != model_fingerprint(tiny_bert())

    def test_of_a_task(self, base_dir: Path, data_dir: Path) -> None:
        task = Task.load(str(base_dir), str(data_dir))
        assert task.model_fingerprint == model_fingerprint(
            load_model(str(base_dir), AutoModelForSequenceClassification)
        )


@pytest.mark.parametrize("model_type", ["bert", "deberta-v2", "mpnet"])
def test_load_model_takes_the_familys_attention(model_type: str, tmp_path: Path) -> None:
    tiny_model(model_type).save_pretrained(tmp_path)
    model = load_model(str(tmp_path), AutoModelForSequenceClassification)
    assert model.config._attn_implementation == architecture_of(model_type).attention


def test_a_model_in_use_does_not_depend_on_its_file(model_copy: Path) -> None:
    model = load_model(str(model_copy), AutoModelForSequenceClassification)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    file = model_copy / "model.safetensors"
    with file.open("r+b") as weights:
        weights.write(bytes(file.stat().st_size))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_blocks_are_not_run_in_chunks(model_copy: Path) -> None:
    expected = load_model(str(model_copy), AutoModelForSequenceClassification)
    edit_config(model_copy, chunk_size_feed_forward=2)
    model = load_model(str(model_copy), AutoModelForSequenceClassification)
    seen = []
    for layer in model.bert.encoder.layer:
        layer.output.dense.register_forward_hook(lambda *call: seen.append(call))
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, expected(input_ids=ids).logits)
    assert len(seen) == len(model.bert.encoder.layer)


def test_load_model_takes_config_entries(base_dir: Path) -> None:
    model = load_model(
        str(base_dir),
        AutoModelForSequenceClassification,
        attention="eager",
        id2label={0: "bad", 1: "good"},
    )
    assert model.config.id2label == {0: "bad", 1: "good"}
    assert model.config._attn_implementation == "eager"
