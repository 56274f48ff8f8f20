"""Models that are given more positions than they have learnt."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from axsearch.models.architectures import architecture_of, architectures
from axsearch.models.positions import with_positions
from axsearch.testing.models import tiny_model

TABLES = [name for name, family in architectures().items() if family.positions]


@pytest.mark.parametrize("model_type", TABLES)
def test_transformers_opens_it_and_what_was_read_before_has_the_same_answers(
    model_type: str, tmp_path: Path
) -> None:
    model, family = tiny_model(model_type), architecture_of(model_type)
    most = family.longest(model.config)
    length = 2 * most + 30  # a whole table, another, and the beginning of one
    longer = with_positions(model, length)
    assert family.longest(longer.config) == length
    assert family.longest(model.config) == most
    longer.save_pretrained(tmp_path)
    opened = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, attn_implementation=family.attention
    )
    whole = family.example(opened.config, 2, length)
    short = {name: tensor[:, :most] for name, tensor in whole.items()}
    short["attention_mask"] = torch.ones_like(short["input_ids"])
    with torch.inference_mode():
        torch.testing.assert_close(opened(**short).logits, model(**short).logits)
        assert torch.isfinite(opened(**whole).logits).all()


def test_each_position_is_that_of_the_table_again() -> None:
    model = tiny_model("roberta")
    table = model.roberta.embeddings.position_embeddings.weight
    longer = with_positions(model, 250).roberta.embeddings.position_embeddings
    before = model.config.pad_token_id + 1
    assert torch.equal(longer.weight[:before], table[:before])
    learnt = table[before:]
    for position in (0, 5, len(learnt) - 1, len(learnt), 249):
        assert torch.equal(longer.weight[before + position], learnt[position % len(learnt)])
    assert longer.padding_idx == model.config.pad_token_id


def test_relative_and_rotary_positions_have_no_table() -> None:
    assert set(architectures()) - {*TABLES} == {"deberta-v2", "modernbert", "vit"}
