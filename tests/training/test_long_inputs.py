"""Training on long inputs: more positions, batches in parts, and memory that is not there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertModel,
    DebertaV2Model,
    ModernBertModel,
    PreTrainedModel,
    TrainingArguments,
)

from axsearch import Task, finetune
from axsearch.errors import UsageError
from axsearch.evaluation import footprint
from axsearch.tasks.kinds.labels import Labels
from axsearch.tasks.kinds.sequences import TextExample
from axsearch.tasks.kinds.text_classification import TextClassification
from axsearch.testing.models import random_model
from axsearch.testing.text import VOCABULARY, reviews, tiny_bert, tiny_tokenizer, write_csv
from axsearch.training import long_inputs
from axsearch.training.long_inputs import InParts, attention_dropout, in_parts, prepared

KIND = TextClassification()


@pytest.fixture
def short(tmp_path: Path) -> Path:
    """A BERT without a head, of 64 positions, whose tokenizer reads 48 tokens."""
    BertModel(tiny_bert().config).save_pretrained(tmp_path / "short")
    tiny_tokenizer().save_pretrained(tmp_path / "short")
    return tmp_path / "short"


@pytest.fixture
def long_data(tmp_path: Path) -> Path:
    """Reviews whose words of judgement come after 70 others."""
    folder = tmp_path / "long"
    folder.mkdir()
    for seed, (split, count) in enumerate((("train", 64), ("validation", 40), ("test", 40))):
        rows = [("word1 " * 70 + text, label) for text, label in reviews(count, seed)]
        write_csv(folder / f"{split}.csv", list(rows), ("text", "label"))
    return folder


def test_a_model_is_given_the_positions_that_are_asked_for(
    short: Path, long_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    finetune(str(short), str(long_data), str(out), epochs=1, max_length=100)
    said = " ".join(capsys.readouterr().err.split())
    assert "is given 100 positions: the embeddings of its own are repeated" in said
    assert "none is cut" in said
    opened = AutoModelForSequenceClassification.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert opened.config.max_position_embeddings == tokenizer.model_max_length == 100
    record = json.loads((out / "finetune.json").read_text())
    assert record["max_length"] == record["positions"] == 100
    with torch.inference_mode():
        batch = tokenizer(["word1 " * 300], truncation=True, return_tensors="pt")
        assert batch["input_ids"].shape == (1, 100)
        assert torch.isfinite(opened(**batch).logits).all()
    task = Task.load(str(out), str(long_data))
    assert task.max_length == 100
    assert task.search.lengths.max() > 72
    assert not task.cut
    assert finetune(str(short), str(long_data), str(out), epochs=1, max_length=100).cached


def test_what_is_not_asked_for_gives_no_positions(
    short: Path, long_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    finetune(str(short), str(long_data), str(out), epochs=1)
    said = " ".join(capsys.readouterr().err.split())
    assert "104 of 104 texts are longer than 48 tokens and are cut, by" in said
    assert "on average; --max-length 64 keeps" not in said  # none of them is that short
    assert json.loads((out / "finetune.json").read_text())["max_length"] == 48
    assert AutoTokenizer.from_pretrained(out).model_max_length == 48
    assert (
        AutoModelForSequenceClassification.from_pretrained(out).config.max_position_embeddings == 64
    )


def test_the_tokenizers_limit_is_not_the_models(
    short: Path, long_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    finetune(str(short), str(long_data), str(out), epochs=1, max_length=60)
    assert AutoTokenizer.from_pretrained(out).model_max_length == 60
    assert "positions" not in json.loads((out / "finetune.json").read_text())
    assert Task.load(str(out), str(long_data)).search.lengths.max() == 60


def test_a_finished_run_of_an_earlier_version_is_found(
    short: Path, data_dir: Path, tmp_path: Path
) -> None:
    """Its record has the 128 that was the default, whatever the model reads."""
    out = tmp_path / "out"
    finetune(str(short), str(data_dir), str(out), epochs=1)
    record = json.loads((out / "finetune.json").read_text())
    (out / "finetune.json").write_text(json.dumps({**record, "max_length": 128}))
    assert finetune(str(short), str(data_dir), str(out), epochs=1).cached
    assert Task.load(str(out), str(data_dir)).max_length == 128
    assert Task.load(str(out), str(data_dir)).search.lengths.max() <= 48


@pytest.mark.parametrize(
    ("model_type", "model_class"), [("modernbert", ModernBertModel), ("deberta-v2", DebertaV2Model)]
)
def test_positions_that_cannot_be_repeated_are_refused(
    model_type: str, model_class: type[PreTrainedModel], data_dir: Path, tmp_path: Path
) -> None:
    config = random_model(model_type, vocab_size=len(VOCABULARY)).config
    model_class(config).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    with pytest.raises(UsageError) as refused:
        finetune(str(tmp_path / "model"), str(data_dir), str(tmp_path / "out"), max_length=200)
    assert str(refused.value) == (
        f"`max_length=200` is above the 98 positions of {tmp_path / 'model'}, and {model_type} has "
        "no embeddings of them that could be repeated; give at most 98, or use a model with more."
    )
    assert not (tmp_path / "out").exists()


def test_the_gradient_is_that_of_the_whole_batch(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(VOCABULARY[5:], n)) for n in (3, 300, 150, 5, 280, 140)]

    examples = [TextExample((text,), str(i % 2)) for i, text in enumerate(texts)]
    tokenizer = tiny_tokenizer()
    split = KIND.split("train", examples, tokenizer, 400, Labels.of(["0", "1"]))
    rows = list(range(len(split)))
    parts = in_parts(split, rows)["parts"]
    assert [part["input_ids"].shape for part in parts] == [(4, 152), (1, 282), (1, 302)]
    model = random_model("bert", vocab_size=len(VOCABULARY), max_position_embeddings=400,
                         hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)  # fmt: skip
    KIND.loss(model(**split.collate(rows)), split.collate_targets(rows)).div(len(rows)).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    trainer = InParts(
        model,
        TrainingArguments(str(tmp_path), use_cpu=True, report_to="none"),
        compute_loss_func=lambda outputs, targets, **_: KIND.loss(outputs, targets),
    )
    trainer.training_step(model, in_parts(split, rows))
    for name, gradient in expected.items():
        own = model.get_parameter(name).grad
        assert own is not None
        torch.testing.assert_close(own, gradient, atol=1e-6, rtol=1e-4)


def test_a_batch_of_short_inputs_is_one_part_in_its_order() -> None:

    examples = [TextExample((text,), str(label)) for text, label in reviews(32, 0)]
    split = KIND.split("train", examples, tiny_tokenizer(), 48, Labels.of(["0", "1"]))
    (part,) = in_parts(split, [5, 3, 9])["parts"]
    assert torch.equal(part["input_ids"], split.collate([5, 3, 9])["input_ids"])
    assert part["labels"].tolist() == split.targets[[5, 3, 9]].tolist()


def test_a_gpu_takes_larger_parts() -> None:
    examples = [TextExample(("word1 " * length,), "0") for length in (500, 300, 510)]
    split = KIND.split("train", examples, tiny_tokenizer(), 512, Labels.of(["0", "1"]))
    assert len(in_parts(split, [0, 1, 2])["parts"]) == 3
    (part,) = in_parts(split, [0, 1, 2], "cuda")["parts"]
    assert part["input_ids"].shape == (3, 512)


def keeps_one_layer(model: PreTrainedModel) -> bool:
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def test_only_one_layers_activations_are_kept_of_long_inputs() -> None:
    model = random_model("bert", max_position_embeddings=64)
    assert not keeps_one_layer(prepared(model, 512, None))
    longer = prepared(model, 513, 700)
    assert keeps_one_layer(longer)
    assert longer.config.max_position_embeddings == 700
    assert longer.config._attn_implementation == "sdpa"
    assert not keeps_one_layer(prepared(random_model("mpnet"), 600, None))  # it cannot


def test_attention_drops_nothing_of_long_inputs_and_the_config_keeps_its_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model("bert", vocab_size=len(VOCABULARY), max_position_embeddings=600)
    model.config.attention_probs_dropout_prob = 0.3
    model.bert.save_pretrained(tmp_path / "model")
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 600
    tokenizer.save_pretrained(tmp_path / "model")
    rates, steps = [], InParts.training_step

    def seen(self: InParts, model: PreTrainedModel, *given: object) -> torch.Tensor:
        rates.append(model.bert.encoder.layer[0].attention.self.dropout.p)
        return steps(self, model, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(InParts, "training_step", seen)
    for length, rate in ((600, 0.0), (512, 0.3)):
        data, out = tmp_path / f"data{length}", tmp_path / f"out{length}"
        data.mkdir()
        for split in ("train", "validation", "test"):
            rows = [(f"{text} {'word1 ' * 600}", label) for text, label in reviews(4, 1)]
            write_csv(data / f"{split}.csv", list(rows), ("text", "label"))
        finetune(str(tmp_path / "model"), str(data), str(out), epochs=1, max_length=length)
        assert set(rates) == {rate}
        rates.clear()
        assert AutoConfig.from_pretrained(out).attention_probs_dropout_prob == 0.3
    assert attention_dropout(random_model("mpnet").config, 600) == {}


def test_too_little_memory_is_said_before_training(
    short: Path, long_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(footprint, "obtainable", lambda: 2**20)
    monkeypatch.delattr(long_inputs.InParts, "training_step")
    with pytest.raises(UsageError) as refused:
        finetune(str(short), str(long_data), str(tmp_path / "out"), max_length=4000)
    assert str(refused.value) == (
        "Training on inputs of 92 tokens takes at least 0.0 GiB of memory, and 0.0 GiB are free: "
        "give a smaller `max_length`, or use a machine with more."
    )
