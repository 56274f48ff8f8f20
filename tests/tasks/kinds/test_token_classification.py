"""Entities as seqeval finds them, words aligned to tokens, tags that do not fit."""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, PreTrainedTokenizerFast

from axsearch import Task
from axsearch.errors import UsageError
from axsearch.statistics import metrics
from axsearch.tasks.data import read_data
from axsearch.tasks.kinds.entities import entities, entity_counts
from axsearch.tasks.kinds.labels import LabelHints, Labels
from axsearch.tasks.kinds.token_classification import Sentences, Tagged, TokenClassification
from axsearch.tasks.split import IGNORED
from axsearch.testing.samples import rows, with_head, write_data, write_rows
from axsearch.testing.text import tiny_bert, tiny_tokenizer

KIND = TokenClassification()
TAGS = Labels.of(["O", "B-X", "I-X", "B-Y", "I-Y"])


def split_of(*examples: tuple[str, str], length: int = 48) -> Sentences:
    """Sentences of words and tags, each given as one string."""
    tagged = [Tagged(tuple(words.split()), tuple(tags.split())) for words, tags in examples]
    return KIND.split("search", tagged, tiny_tokenizer(), length, TAGS)


class TestEntities:
    @pytest.mark.parametrize(
        ("tags", "found"),
        [
            ("", []),
            ("O O", []),
            ("B-X", [("X", 0, 0)]),
            ("B-X I-X O B-X", [("X", 0, 1), ("X", 3, 3)]),
            ("B-X B-X I-X", [("X", 0, 0), ("X", 1, 2)]),
            ("B-X I-Y", [("X", 0, 0), ("Y", 1, 1)]),  # the type changes
            ("O I-X I-X", [("X", 1, 2)]),  # an entity may begin with I-
            ("I-X B-X", [("X", 0, 0), ("X", 1, 1)]),
            ("B-X O I-X", [("X", 0, 0), ("X", 2, 2)]),
            ("B-X I-X E-X B-X E-X", [("X", 0, 2), ("X", 3, 4)]),
            ("B-X E-X I-X", [("X", 0, 1), ("X", 2, 2)]),
            ("S-X S-X", [("X", 0, 0), ("X", 1, 1)]),
            ("S-X E-X", [("X", 0, 0), ("X", 1, 1)]),
            ("B-X-1 I-X-1", [("X-1", 0, 1)]),
            # IOB1: B only where an entity follows another of its type
            ("I-X I-X B-X O I-Y", [("X", 0, 1), ("X", 2, 2), ("Y", 4, 4)]),
            # IOBES, BILOU and BMES
            ("B-X I-X E-X S-Y S-Y", [("X", 0, 2), ("Y", 3, 3), ("Y", 4, 4)]),
            ("B-X I-X L-X U-Y U-Y", [("X", 0, 2), ("Y", 3, 3), ("Y", 4, 4)]),
            ("B-X M-X E-X S-Y S-Y", [("X", 0, 2), ("Y", 3, 3), ("Y", 4, 4)]),
            ("B-X L-X I-X", [("X", 0, 1), ("X", 2, 2)]),
            # without types
            ("B I O B B", [("", 0, 1), ("", 3, 3), ("", 4, 4)]),
            ("O I I O I", [("", 1, 2), ("", 4, 4)]),
            ("B M E S", [("", 0, 2), ("", 3, 3)]),
            # from seqeval's documentation and tests of get_entities
            ("B-PER I-PER O B-LOC", [("PER", 0, 1), ("LOC", 3, 3)]),
            ("O O O B-MISC I-MISC I-MISC O B-PER I-PER", [("MISC", 3, 5), ("PER", 7, 8)]),
        ],
    )
    def test_where_they_are(self, tags: str, found: list[tuple[str, int, int]]) -> None:
        assert entities(tags.split()) == found

    @pytest.mark.parametrize(
        ("gold", "said", "counts"),
        [
            ("B-X I-X O", "B-X I-X O", (1, 1, 1)),
            ("B-X I-X O", "I-X I-X O", (1, 1, 1)),  # the same entity
            ("B-X I-X O", "B-X O O", (0, 1, 1)),  # another end
            ("B-X I-X O", "B-Y I-Y O", (0, 1, 1)),  # another type
            ("B-X I-X I-X", "B-X O B-X", (0, 2, 1)),
            ("B-X O B-X", "B-X I-X I-X", (0, 1, 2)),
            ("O O O", "B-X O B-Y", (0, 2, 0)),
            ("B-X B-Y B-X", "O B-Y O", (1, 1, 3)),
        ],
    )
    def test_counts(self, gold: str, said: str, counts: tuple[int, int, int]) -> None:
        assert entity_counts(gold.split(), said.split()) == counts

    def test_seqevals_own_example(self) -> None:
        # README of seqeval: f1_score 0.50, accuracy_score 0.80
        gold = ["O O O B-MISC I-MISC I-MISC O", "B-PER I-PER O"]
        said = ["O O B-MISC I-MISC I-MISC I-MISC O", "B-PER I-PER O"]
        names = ["O", "B-MISC", "I-MISC", "B-PER", "I-PER"]
        split = Sentences(
            "search", [], [], 0, tuple(names),
            tags=[[names.index(t) for t in tags.split()] for tags in gold],
            words=[list(range(7)), list(range(3))],
        )  # fmt: skip
        answers = [[names.index(t) for t in tags.split()] for tags in said]
        assert metrics.value(KIND.outcome("f1", split, answers)) == 0.5
        assert metrics.value(KIND.outcome("accuracy", split, answers)) == 0.8


class TestWords:
    def test_first_tokens_are_tagged(self) -> None:
        pieces = Tokenizer(
            models.WordPiece({w: i for i, w in enumerate(["[UNK]", "a", "##b", "##c", "d"])},
                             unk_token="[UNK]")
        )  # fmt: skip
        pieces.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, pad_token="[UNK]")
        example = Tagged(("abc", "d", "ab"), ("B-X", "O", "I-Y"))
        split = KIND.split("x", [example], tokenizer, 20, TAGS)
        assert split.inputs[0]["input_ids"] == [1, 2, 3, 4, 1, 2]
        assert split.targets == [[1, IGNORED, IGNORED, 0, 4, IGNORED]]
        assert split.words == [[0, 1, 2]]

    @pytest.mark.parametrize("wrapped", [False, True])
    def test_words_of_a_byte_level_tokenizer_begin_with_a_space(self, wrapped: bool) -> None:
        # As RoBERTa's: without the space each word would be another token than in running text.
        vocabulary = ["[UNK]", *sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġa", "Ġb"]
        merges = [("Ġ", "a"), ("Ġ", "b")]
        words = Tokenizer(models.BPE({w: i for i, w in enumerate(vocabulary)}, merges))
        step: Any = pre_tokenizers.ByteLevel(add_prefix_space=False)
        if wrapped:
            step = pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), step])
        words.pre_tokenizer = step
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[UNK]")
        KIND.prepare_tokenizer(tokenizer)
        split = KIND.split("x", [Tagged(("a", "b"), ("B-X", "O"))], tokenizer, 20, TAGS)
        assert tokenizer.convert_ids_to_tokens(split.inputs[0]["input_ids"]) == ["Ġa", "Ġb"]

    def test_words_beyond_the_cut_count_as_missed(self) -> None:
        split = split_of(("good word1 word2 good", "B-X O O B-X"), length=5)
        assert split.words == [[0, 1, 2]]
        right = [[1, 0, 0]]
        assert KIND.outcome("f1", split, right).values.tolist() == [[1, 1, 2]]
        assert KIND.outcome("accuracy", split, right).values.tolist() == [[3, 4]]
        uncut = split_of(("good word1 word2 good", "B-X O O B-X"))
        assert uncut.fingerprint != split.fingerprint

    def test_names_decide_where_entities_are(self) -> None:
        split = split_of(("good word1", "B-X I-X"))
        renamed = Labels(("O", "B-X", "B-Y", "I-X", "I-Y"), TAGS.ids)
        example = Tagged(("good", "word1"), ("B-X", "I-X"))
        other = KIND.split("x", [example], tiny_tokenizer(), 48, renamed)
        assert (other.targets, other.inputs) == (split.targets, split.inputs)
        assert other.fingerprint != split.fingerprint

    def test_words_without_a_tag_are_not_scored(self) -> None:
        # Both are as in seqeval on what transformers' run_ner leaves: positions without -100.
        example = Tagged(("good", "word1", "word2", "good"), (None, "B-X", None, "B-X"))
        split = KIND.split("search", [example], tiny_tokenizer(), 48, TAGS)
        assert split.targets == [[IGNORED, IGNORED, 1, IGNORED, 1, IGNORED]]
        assert split.words == [[1, 3]]
        logits = torch.full((1, 6, 5), 0.0)
        logits[0, :, 1] = 1.0  # B-X everywhere
        answers = KIND.decode(logits, split, np.array([0]))
        assert answers == [[1, 1]]
        assert KIND.outcome("f1", split, answers).values.tolist() == [[2, 2, 2]]
        assert KIND.outcome("accuracy", split, answers).values.tolist() == [[2, 2]]
        assert KIND.outcome("accuracy", split, [[0, 1]]).values.tolist() == [[1, 2]]

    def test_what_else_a_head_may_answer_is_no_entity(self) -> None:
        more = Labels((*TAGS.names, "X", "[CLS]"), TAGS.ids)
        KIND.check_labels(more, "f1")
        split = KIND.split(
            "x", [Tagged(("good", "word1"), ("B-X", "O"))], tiny_tokenizer(), 48, more
        )
        assert KIND.outcome("f1", split, [[1, 5]]).values.tolist() == [[1, 1, 1]]

    def test_one_tag_for_all_is_trivial(self) -> None:
        split = split_of(("good word1 word2", "B-X O O"), ("word1 word2", "O O"))
        assert KIND.trivial("f1", split, split) == pytest.approx(1 / 3)  # one of five B-X is right
        assert KIND.trivial("accuracy", split, split) == 0.8


class TestData:
    def refused(self, folder: Path, content: list[dict[str, Any]], **arguments: Any) -> str:
        write_rows(folder / "train.jsonl", content)
        with pytest.raises(UsageError) as caught:
            read_data(str(folder), **arguments)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_class_names_kept_in_parquet(self, tmp_path: Path) -> None:
        content = rows(KIND.name, 40, 0)
        names = ["O", "B-GOOD", "I-GOOD", "B-BAD"]
        tags = datasets.Sequence(datasets.ClassLabel(names=names))
        features = datasets.Features(
            {"tokens": datasets.Sequence(datasets.Value("string")), "ner_tags": tags}
        )
        ids = [{"tokens": row["tokens"], "ner_tags": [names.index(t) for t in row["tags"]]}
               for row in content]  # fmt: skip
        datasets.Dataset.from_list(ids, features=features).to_parquet(tmp_path / "test.parquet")
        write_rows(tmp_path / "train.jsonl", [{**r, "ner_tags": r["tags"]} for r in content])
        assert [list(e.tags) for e in read_data(str(tmp_path)).test] == [r["tags"] for r in content]

    @pytest.mark.parametrize(
        "change",
        [{"tags": ["O"]}, {"tags": None}, {"tokens": ["a", None]}],
        ids=str,
    )
    def test_rows_that_do_not_match(self, tmp_path: Path, change: dict[str, Any]) -> None:
        content = rows(KIND.name, 30, 0)
        content[2] = {**content[2], **change}
        message = self.refused(tmp_path, content)
        assert (
            "row 3 of the train split must have a list of words and a list of as many tags"
            in message
        )

    @pytest.mark.parametrize("column", ["tokens", "tags"])
    @pytest.mark.parametrize("value", [0.5, True, ["a"], {"a": 1}], ids=str)
    def test_what_is_no_word_or_tag(self, tmp_path: Path, column: str, value: Any) -> None:
        content = [{**row, column: [value] * len(row["tags"])} for row in rows(KIND.name, 30, 0)]
        assert "row 1 of the train split must have a list of words" in self.refused(
            tmp_path, content, task=KIND.name
        )

    @pytest.mark.parametrize("tag", [-2, 2])
    def test_ids_of_no_tag(self, tmp_path: Path, tag: int) -> None:
        tags = datasets.Sequence(datasets.ClassLabel(names=["O", "B-X"]))
        features = datasets.Features(
            {"tokens": datasets.Sequence(datasets.Value("string")), "ner_tags": tags}
        )
        columns = {"tokens": [["a", "b"]] * 30, "ner_tags": [[0, 1]] * 29 + [[0, tag]]}
        table = pa.table(columns, schema=features.arrow_schema)
        parquet.write_table(table, tmp_path / "train.parquet")
        with pytest.raises(UsageError, match="row 30 of the train split has a tag that is not one"):
            read_data(str(tmp_path))

    def test_no_column_of_tags(self, tmp_path: Path) -> None:
        content = [{"tokens": row["tokens"], "pos": row["tags"]} for row in rows(KIND.name, 30, 0)]
        assert "has none of the columns ner_tags, tags, labels" in self.refused(tmp_path, content)
        write_rows(tmp_path / "train.jsonl", content)
        assert read_data(str(tmp_path), task=KIND.name, label_column="pos").columns.label == "pos"

    def test_one_tag_alone(self, tmp_path: Path) -> None:
        content = [{**row, "tags": ["O"] * len(row["tags"])} for row in rows(KIND.name, 30, 0)]
        assert "label column 'tags' is constant" in self.refused(tmp_path, content)

    def test_tags_that_the_head_does_not_know(self, tmp_path: Path) -> None:
        model, data = tmp_path / "model", tmp_path / "data"
        data.mkdir()
        with_head(KIND.name, tiny_bert()).save_pretrained(model)
        tiny_tokenizer().save_pretrained(model)
        write_data(KIND.name, data)
        strange = rows(KIND.name, 10, 5)
        strange[0]["tags"][0] = "B-PLACE"
        write_rows(data / "validation.jsonl", strange)
        with pytest.raises(UsageError, match=r"'B-PLACE', .* do not fit the model's head"):
            Task.load(str(model), str(data))

    def test_tags_that_mark_no_entity(self) -> None:
        parts = Labels.of(["NOUN", "VERB"])
        KIND.check_labels(parts, "accuracy")
        with pytest.raises(UsageError, match=r"'NOUN' marks no entity.*`metric=\"accuracy\"`"):
            KIND.check_labels(parts, "f1")
        KIND.check_labels(TAGS, "f1")
        KIND.check_labels(Labels.of(["O", "B", "I"]), "f1")
        KIND.check_labels(Labels.of(["U-X", "L-X", "M-Y"]), "f1")
        for strange in ("PER", "Location", "B-", "BX"):
            with pytest.raises(UsageError, match="marks no entity"):
                KIND.check_labels(Labels.of(["O", strange]), "f1")

    @pytest.mark.parametrize("named", [True, False])
    @pytest.mark.parametrize("hidden", [-100, -1])
    def test_words_without_tags(self, tmp_path: Path, named: bool, hidden: int) -> None:
        """As in data that were tokenized for training: special tokens have the tag -100."""
        ids = datasets.ClassLabel(names=["O", "B-X"]) if named else datasets.Value("int64")
        features = datasets.Features(
            {
                "tokens": datasets.Sequence(datasets.Value("string")),
                "ner_tags": datasets.Sequence(ids),
            }
        )
        content = [{"tokens": ["[CLS]", "a", "b"], "ner_tags": [hidden, 0, 1]}] * 38
        content += [{"tokens": ["a", "b"], "ner_tags": [hidden, hidden]}] * 2
        table = datasets.Dataset.from_list(content, features=features)
        table.to_parquet(tmp_path / "train.parquet")
        read = read_data(str(tmp_path))
        expected = (None, "O", "B-X") if named else (None, "0", "1")
        assert {example.tags for example in read.train} == {expected}
        assert KIND.new_labels(read.train, read.test).names == expected[1:]
        assert "2 of the 40 rows of the train split have no label and are left out." in read.notes

    @pytest.mark.parametrize("written", ["['a' 'b']", '["a", "b"]', "['a', 'b']"])
    def test_lists_that_a_table_wrote_as_text(self, tmp_path: Path, written: str) -> None:
        lines = [["tokens", "ner_tags"], *[[written, "[0 1]"]] * 30]
        with (tmp_path / "train.csv").open("w", newline="") as file:
            csv.writer(file).writerows(lines)
        with pytest.raises(UsageError, match=r"'tokens' .* lists that were written as text.*JSON"):
            read_data(str(tmp_path))

    def test_a_head_without_names_has_those_of_the_data(self) -> None:
        """They decide where entities are; ids alone would mark none."""
        tags = ("O", "B-X", "I-X")
        config = BertConfig(num_labels=4)
        found = KIND.labels(config, [Tagged(("a", "b"), ("B-X", "O"))], LabelHints(tags))
        assert found.names == (*tags, "LABEL_3")
        assert found.ids == {"B-X": 1, "O": 0}
        KIND.check_labels(found, "f1")
        mapping = {"B-X": "1", "O": "0", "<pad>": "0"}
        example = Tagged(("a", "b", "c"), ("B-X", "O", "<pad>"))
        found = KIND.labels(config, [example], LabelHints(mapping=mapping))
        assert found.names[:2] == ("O", "B-X")
        KIND.check_labels(found, "f1")

    def test_rows_without_tags_are_left_out(self, tmp_path: Path) -> None:
        tags = datasets.Sequence(datasets.ClassLabel(names=["O", "B-X"]))
        words = datasets.Sequence(datasets.Value("string"))
        features = datasets.Features({"tokens": words, "ner_tags": tags})
        content = [{"tokens": ["a", "b"], "ner_tags": [0, 1]}] * 38
        content += [{"tokens": ["a", "b"], "ner_tags": [-1, -1]}] * 2
        datasets.Dataset.from_list(content, features=features).to_parquet(
            tmp_path / "train.parquet"
        )
        read = read_data(str(tmp_path))
        assert len(read.train) + len(read.validation) + len(read.test) == 38
        assert "2 of the 40 rows of the train split have no label and are left out." in read.notes


def test_labels_of_a_new_head() -> None:
    train = [Tagged(("a", "b", "c"), ("I-X", "B-X", "O"))]
    assert KIND.new_labels(train, train).names == ("O", "B-X", "I-X")
    more = KIND.new_labels(train, [Tagged(("a",), ("B-Z",))])
    assert more.names == ("O", "B-X", "B-Z", "I-X")
    assert more.note == "Only in validation or test, so nothing can be learnt of it: 'B-Z'."


def all_spans(tags: list[str]) -> set[tuple[str, int, int]]:
    """Every run of words that is an entity, each tried on its own."""
    begins = [
        tag != "O" and (tag[0] in "BS" or before[0] in "OES" or before[2:] != tag[2:])
        for before, tag in pairwise(["O", *tags])
    ]
    ends = [tag == "O" or begin for tag, begin in zip(tags, begins, strict=True)] + [True]
    return {
        (tags[start][2:], start, end)
        for start in range(len(tags))
        for end in range(start, len(tags))
        if begins[start] and not any(ends[start + 1 : end + 1]) and ends[end + 1]
    }


def test_random_tags_give_counts_that_add_up() -> None:
    draw = np.random.default_rng(0)
    for _ in range(200):
        gold, said = draw.choice(["O", "B-X", "I-X", "B-Y", "I-Y", "S-X", "E-Y"], (2, 9)).tolist()
        there, found = all_spans(gold), all_spans(said)
        assert entity_counts(gold, said) == (len(there & found), len(found), len(there))
