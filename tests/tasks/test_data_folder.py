"""Finding the splits of a folder, and the formats that its files may have."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import zipfile
from pathlib import Path
from typing import Any

import datasets
import pytest

from axsearch.errors import UsageError
from axsearch.tasks.data import read_data
from axsearch.tasks.data_folder import split_of

Rows = list[dict[str, Any]]

COMPRESS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def compress(plain: Path, to: Path) -> None:
    suffix = to.suffix.lower()
    if suffix == ".zip":
        with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(plain, plain.name)
    else:
        to.write_bytes(COMPRESS[suffix](plain.read_bytes()))


def rows(count: int, start: int = 0) -> Rows:
    return [{"text": f"text {i}", "label": i % 2} for i in range(start, start + count)]


def write_csv(path: Path, content: Rows, *, encoding: str = "utf-8", **how: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, content[0], **how)
        writer.writeheader()
        writer.writerows(content)


def counts(source: Path | str, **given: Any) -> tuple[int, int, int]:
    found = read_data(str(source), **given)
    return len(found.train), len(found.validation), len(found.test)


def refused(source: Path | str, **given: Any) -> str:
    with pytest.raises(UsageError) as caught:
        read_data(str(source), **given)
    return str(caught.value)


class TestNames:
    @pytest.mark.parametrize(
        ("name", "split"),
        [
            ("train", "train"), ("Training", "train"), ("dev", "validation"), ("val", "validation"),
            ("valid", "validation"), ("my_dev.2", "validation"), ("test-0", "test"),
            ("sst2.train", "train"), ("eval", "test"), ("constraint", None), ("latest", None),
            ("device", None), ("contest", None),
        ],
    )  # fmt: skip
    def test_words_of_a_name(self, name: str, split: str | None) -> None:
        assert split_of(name) == split

    @pytest.mark.parametrize("name", ["dev", "val", "valid", "validation", "Dev"])
    def test_validation(self, tmp_path: Path, name: str) -> None:
        for split, count in (("train", 30), (name, 7), ("test", 8)):
            write_csv(tmp_path / f"{split}.csv", rows(count))
        assert counts(tmp_path) == (30, 7, 8)
        assert read_data(str(tmp_path)).notes == ()

    def test_eval_is_test_unless_there_is_one(self, tmp_path: Path) -> None:
        write_csv(tmp_path / "train.csv", rows(40))
        write_csv(tmp_path / "eval.csv", rows(7))
        assert counts(tmp_path) == (36, 4, 7)
        write_csv(tmp_path / "test.csv", rows(8))
        assert counts(tmp_path) == (40, 7, 8)
        write_csv(tmp_path / "dev.csv", rows(9))
        assert "holds eval.csv and test.csv; keep one" in refused(tmp_path)

    def test_two_files_of_a_split(self, tmp_path: Path) -> None:
        for name in ("train", "dev", "valid"):
            write_csv(tmp_path / f"{name}.csv", rows(30))
        assert "holds dev.csv and valid.csv; keep one" in refused(tmp_path)

    def test_what_is_not_read_is_said(self, tmp_path: Path) -> None:
        for name in ("train", "test", "train_old", "extra"):
            write_csv(tmp_path / f"{name}.csv", rows(30))
        (tmp_path / "licence.txt").write_text("free\n")
        notes = read_data(str(tmp_path)).notes
        assert notes[0] == "Not read: extra.csv, train_old.csv."

    def test_splits_are_found_one_by_one(self, tmp_path: Path) -> None:
        write_csv(tmp_path / "train.csv", rows(30))
        write_csv(tmp_path / "dev_set.csv", rows(7))
        write_csv(tmp_path / "test" / "part-0.csv", rows(8))
        assert counts(tmp_path) == (30, 7, 8)
        assert read_data(str(tmp_path)).notes == (
            "Read as validation: dev_set.csv.",
            "Read as test: test/part-0.csv.",
        )

    def test_files_of_mnli(self, tmp_path: Path) -> None:
        for name, count in (("train", 30), ("dev_matched", 7), ("dev_mismatched", 9)):
            write_csv(tmp_path / f"{name}.tsv", rows(count), delimiter="\t")
        found = read_data(str(tmp_path))
        assert len(found.validation) == 7
        assert "Not read: dev_mismatched.tsv." in found.notes

    def test_subsets_of_each_other_are_not_joined(self, tmp_path: Path) -> None:
        for size in (10, 40):
            write_csv(tmp_path / f"train_{size}.csv", rows(size))
        assert "have 10 rows in common; keep one" in refused(tmp_path)

    def test_names_with_a_split_in_them(self, tmp_path: Path) -> None:
        for name, count in (("reviews-train-1", 20), ("reviews-train-2", 21), ("reviews-dev", 7)):
            write_csv(tmp_path / f"{name}.csv", rows(count, 100 * count))
        write_csv(tmp_path / "reviews.test.csv", rows(8))
        assert counts(tmp_path) == (41, 7, 8)

    def test_a_folder_a_split(self, tmp_path: Path) -> None:
        for name, count in (("train/a", 20), ("train/b", 21), ("valid/a", 7), ("test/a", 8)):
            write_csv(tmp_path / f"{name}.csv", rows(count))
        assert counts(tmp_path) == (41, 7, 8)
        write_csv(tmp_path / "train" / "c.csv", [{"text": "x", "kind": 1}])
        assert "a split's files must have the same" in refused(tmp_path)

    def test_files_of_a_split_with_their_columns_in_another_order_or_left_out(
        self, tmp_path: Path
    ) -> None:
        """As of datasets that write shards, in which a value that is not there has no key."""
        parts = (
            [{"label": row["label"], "text": row["text"]} for row in rows(20)],
            [{**row, "source": "web"} for row in rows(20, 20)],
            [{"text": "no label"}],
        )
        (tmp_path / "train").mkdir()
        for name, part in zip("abc", parts, strict=True):
            lines = "".join(json.dumps(row) + "\n" for row in part)
            (tmp_path / "train" / f"{name}.jsonl").write_text(lines)
        found = read_data(str(tmp_path))
        assert "1 of the 41 rows of the train split have no label and are left out." in found.notes
        read = [*found.train, *found.validation, *found.test]
        assert {(*one.texts, one.label) for one in read} == {
            (row["text"], str(row["label"])) for row in rows(40)
        }

    def test_a_folder_says_more_than_the_names_of_its_files(self, tmp_path: Path) -> None:
        for name, count in (("train/test_cases", 20), ("val/train-like", 7), ("test/val_9", 8)):
            write_csv(tmp_path / f"{name}.csv", rows(count))
        assert counts(tmp_path) == (20, 7, 8)

    def test_shards_of_a_hub_repository(self, tmp_path: Path) -> None:
        names = datasets.ClassLabel(names=["no", "yes"])
        features = datasets.Features({"text": datasets.Value("string"), "label": names})
        (tmp_path / "data").mkdir()
        for shard in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
            table = datasets.Dataset.from_list(rows(20), features=features)
            table.to_parquet(tmp_path / "data" / f"{shard}.parquet")
        found = read_data(str(tmp_path))
        assert len(found.train) + len(found.validation) == 40
        assert found.classes == ("no", "yes")

    def test_a_single_file(self, tmp_path: Path) -> None:
        write_csv(tmp_path / "reviews.csv", rows(100))
        assert counts(tmp_path) == counts(tmp_path / "reviews.csv") == (81, 10, 9)

    @pytest.mark.parametrize("name", ["data.json", "dataset.json"])
    def test_a_file_called_data_beside_something_else(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_text(json.dumps(rows(100)))
        (tmp_path / "about.json").write_text(json.dumps({"citation": "ours"}))
        found = read_data(str(tmp_path))
        assert len(found.train) == 81
        assert found.notes[:2] == (f"Read as train: {name}.", "Not read: about.json.")

    def test_folders_of_other_data_are_not_looked_into(self, tmp_path: Path) -> None:
        for name in ("reviews", "tickets"):
            write_csv(tmp_path / name / "train.csv", rows(30))
        assert "holds no file for training" in refused(tmp_path)
        write_csv(tmp_path / "train.csv", rows(40))
        assert counts(tmp_path) == (33, 4, 3)

    def test_hidden_files_are_not_looked_at(self, tmp_path: Path) -> None:
        write_csv(tmp_path / "train.csv", rows(30))
        write_csv(tmp_path / ".cache" / "dev.csv", rows(30))
        write_csv(tmp_path / "__pycache__" / "test.csv", rows(30))
        assert read_data(str(tmp_path)).notes[0].startswith("No validation split")

    def test_nothing_for_training(self, tmp_path: Path) -> None:
        write_csv(tmp_path / "dev.csv", rows(30))
        assert "holds no file for training" in refused(tmp_path)


class TestSavedByDatasets:
    def test_save_to_disk(self, tmp_path: Path) -> None:
        parts = {"train": rows(30), "dev": rows(7), "test": rows(8)}
        saved = datasets.DatasetDict({n: datasets.Dataset.from_list(p) for n, p in parts.items()})
        saved.save_to_disk(tmp_path / "dict")
        assert counts(tmp_path / "dict") == (30, 7, 8)
        datasets.Dataset.from_list(rows(100)).save_to_disk(tmp_path / "one")
        assert counts(tmp_path / "one") == (81, 10, 9)

    def test_splits_that_are_not_read_are_said(self, tmp_path: Path) -> None:
        parts = {"train_r1": rows(40), "train_r2": rows(50), "dev_r1": rows(7), "test_r1": rows(8)}
        saved = datasets.DatasetDict({n: datasets.Dataset.from_list(p) for n, p in parts.items()})
        saved.save_to_disk(tmp_path)
        found = read_data(str(tmp_path))
        assert (len(found.train), len(found.validation), len(found.test)) == (40, 7, 8)
        assert found.notes == ("Not read: the splits train_r2.",)

    def test_a_repository_with_configs(self, tmp_path: Path) -> None:
        for config, count in (("large", 40), ("small", 30)):
            write_csv(tmp_path / config / "a.csv", rows(count))
            write_csv(tmp_path / config / "b.csv", rows(7))
        files = "".join(
            f"- config_name: {config}\n  data_files:\n  - split: train\n    path: {config}/a.csv\n"
            f"  - split: validation\n    path: {config}/b.csv\n"
            for config in ("large", "small")
        )
        (tmp_path / "README.md").write_text(f"---\nlicense: mit\nconfigs:\n{files}---\n# Reviews\n")
        assert counts(f"{tmp_path}:large") == (36, 7, 4)
        assert counts(f"{tmp_path}:small") == (27, 7, 3)
        assert "cannot be read" in refused(tmp_path)


class TestFormats:
    @pytest.mark.parametrize("lines", [True, False])
    def test_json(self, tmp_path: Path, lines: bool) -> None:
        for split, count in (("train", 30), ("validation", 7), ("test", 8)):
            own = rows(count)
            text = "\n".join(map(json.dumps, own)) if lines else json.dumps(own, indent=1)
            (tmp_path / f"{split}.json").write_text(text)
        assert counts(tmp_path) == (30, 7, 8)

    def test_json_with_its_rows_as_data(self, tmp_path: Path) -> None:
        (tmp_path / "train.json").write_text(json.dumps({"version": 1, "data": rows(100)}))
        assert counts(tmp_path) == (81, 10, 9)

    @pytest.mark.parametrize("text", ["3", '["a"]', '{"data": 3}', '[{"a": 1}, 2]'])
    def test_json_of_something_else(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "train.json").write_text(text)
        assert "an array of them" in refused(tmp_path)

    @pytest.mark.parametrize(
        "name",
        [
            "train.csv.gz", "train.jsonl.gz", "train.parquet.gz", "train.csv.bz2", "train.csv.xz",
            "train.csv.zip", "train.parquet.zip", "Train.CSV.ZIP",
        ],
    )  # fmt: skip
    def test_compressed(self, tmp_path: Path, name: str) -> None:
        plain = tmp_path / Path(name).stem.lower()
        if plain.suffix == ".csv":
            write_csv(plain, rows(100))
        else:
            table = datasets.Dataset.from_list(rows(100))
            table.to_parquet(plain) if plain.suffix == ".parquet" else table.to_json(plain)
        compress(plain, tmp_path / name)
        plain.unlink()
        assert counts(tmp_path) == (81, 10, 9)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:40])
        assert f"{tmp_path / name} cannot be read" in refused(tmp_path)

    def test_what_was_unpacked_is_read_once(self, tmp_path: Path) -> None:
        write_csv(tmp_path / "train.csv", rows(100))
        compress(tmp_path / "train.csv", tmp_path / "train.csv.zip")
        (tmp_path / "cooking.train").write_text("__label__salt How much salt?\n")  # fastText's
        assert counts(tmp_path) == (81, 10, 9)

    def test_an_encrypted_archive(self, tmp_path: Path) -> None:
        path = tmp_path / "train.csv.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("train.csv", "text,label\nx,0\n")
        found = bytearray(path.read_bytes())
        for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            found[found.index(header) + flags] |= 1
        path.write_bytes(found)
        assert "train.csv.zip cannot be read: " in refused(tmp_path)
        assert "encrypted" in refused(tmp_path)

    def test_a_loading_script(self, tmp_path: Path) -> None:
        (tmp_path / "reviews.py").write_text("print()")
        assert "loading script" not in refused(tmp_path)
        (tmp_path / "reviews.py").write_text("class Reviews(GeneratorBasedBuilder): ...")
        assert "reviews.py is a loading script, which datasets runs up to version 3" in refused(
            tmp_path
        )

    def test_an_archive_of_several_files(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "train.csv.zip", "w") as archive:
            archive.writestr("__MACOSX/._a.csv", "")
            archive.writestr("a.csv", "text,label\n" + "x,0\ny,1\n" * 30)
        assert counts(tmp_path) == (48, 6, 6)
        with zipfile.ZipFile(tmp_path / "train.csv.zip", "a") as archive:
            archive.writestr("b.csv", "text,label\n")
        assert "train.csv.zip holds 2 files; unpack it, and name the folder" in refused(tmp_path)

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("archive.zip", "unpack archive.zip, and name the folder that it makes"),
            ("data.tar.gz", "unpack data.tar.gz, and name the folder that it makes"),
            ("reviews.xlsx", "save reviews.xlsx as CSV"),
        ],
    )
    def test_what_else_a_folder_holds(self, tmp_path: Path, name: str, said: str) -> None:
        (tmp_path / name).write_text("")
        assert said in refused(tmp_path)
        if "." in Path(name).stem or name.endswith(".zip"):
            assert "unpack it, and name the folder" in refused(tmp_path / name)

    @pytest.mark.parametrize("separator", [";", "\t", "|"])
    def test_csv_with_another_separator(self, tmp_path: Path, separator: str) -> None:
        content = [{"label": i % 2, "text": f"one, {i}"} for i in range(100)]
        write_csv(tmp_path / "train.csv", content, delimiter=separator)
        found = read_data(str(tmp_path))
        assert all(text.startswith("one, ") for ((text,), _) in found.train)

    def test_tsv_whose_quotes_are_characters(self, tmp_path: Path) -> None:
        lines = ["sentence\tlabel", *(f'"so {i}" he said\t{i % 2}' for i in range(40)), '"open\t1']
        (tmp_path / "train.tsv").write_text("\n".join(lines))
        texts = [text for ((text,), _) in read_data(str(tmp_path)).train]
        assert all(text.startswith('"') for text in texts)

    def test_tsv_with_quotes_as_in_csv(self, tmp_path: Path) -> None:
        content = [{"text": f'tab\t"{i}"', "label": i % 2} for i in range(40)]
        write_csv(tmp_path / "train.tsv", content, delimiter="\t")
        texts = [text for ((text,), _) in read_data(str(tmp_path)).train]
        assert all(text.startswith('tab\t"') for text in texts)

    def test_columns_without_a_name(self, tmp_path: Path) -> None:
        lines = [",v1,v2,,,"] + [f"{i},{('ham', 'spam')[i % 2]},text {i},,," for i in range(40)]
        (tmp_path / "train.csv").write_text("\n".join(lines))
        found = read_data(str(tmp_path), text_columns=["v2"], label_column="v1")
        assert {example.label for example in found.train} == {"ham", "spam"}

    @pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "latin-1"])
    def test_encodings(self, tmp_path: Path, encoding: str) -> None:
        content = [{"text": f"caf\xe9 \xa3{i}", "label": i % 2} for i in range(40)]
        write_csv(tmp_path / "train.csv", content, encoding=encoding)
        found = read_data(str(tmp_path), encoding=encoding)
        assert all(text.startswith("caf\xe9 \xa3") for ((text,), _) in found.train)
        if encoding == "utf-16":  # its byte order mark says so
            assert read_data(str(tmp_path)).train == found.train
        else:
            assert "name its `encoding`, such as cp1252" in refused(tmp_path)
        if encoding == "cp1252":
            assert "is not ascii text; name another `encoding`" in refused(
                tmp_path, encoding="ascii"
            )


class TestCorpora:
    def squad(self, count: int) -> dict[str, Any]:
        questions = [
            {
                "id": f"q{i}",
                "question": f"What is {i}?",
                "answers": [{"text": "good", "answer_start": 4}],
                "is_impossible": False,
            }
            for i in range(count)
        ]
        none = {"id": "n", "question": "Why?", "answers": [], "is_impossible": True,
                "plausible_answers": [{"text": "is", "answer_start": 0}]}  # fmt: skip
        paragraph = {"context": "the good is", "qas": [*questions, none]}
        return {"version": "v2.0", "data": [{"title": "t", "paragraphs": [paragraph]}]}

    def test_squads_own_files(self, tmp_path: Path) -> None:
        for split, count in (("train", 30), ("dev", 6), ("test", 7)):
            (tmp_path / f"{split}.json").write_text(json.dumps(self.squad(count)))
        found = read_data(str(tmp_path))
        assert found.kind.name == "question-answering"
        assert counts(tmp_path) == (31, 7, 8)
        assert found.train[0].answers == (("good", 4),)
        assert found.train[-1].answers == ()

    @pytest.mark.parametrize("missing", ["qas", "context"])
    def test_a_damaged_file_of_squads_form(self, tmp_path: Path, missing: str) -> None:
        damaged = self.squad(3)
        del damaged["data"][0]["paragraphs"][0][missing]
        (tmp_path / "train.json").write_text(json.dumps(damaged))
        assert "it is not in SQuAD's form" in refused(tmp_path)

    CONLL = (
        "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n# # B-NP O\n\n"
        "Peter NNP B-NP B-PER\nBlackburn NNP I-NP I-PER\n"
    )

    @pytest.mark.parametrize("name", ["train.txt", "train.conll", "train.bio"])
    def test_conlls_own_files(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_text("\n".join([self.CONLL] * 20))
        found = read_data(str(tmp_path))
        assert found.kind.name == "token-classification"
        assert (("EU", "rejects", "#"), ("B-ORG", "O", "O")) in found.train
        assert (("Peter", "Blackburn"), ("B-PER", "I-PER")) in found.train

    def test_conlls_own_names(self, tmp_path: Path) -> None:
        for name, times in (("esp.train", 30), ("esp.testa", 7), ("esp.testb", 8)):
            (tmp_path / name).write_text("\n".join([self.CONLL] * times))
        assert counts(tmp_path) == (60, 14, 16)
        (tmp_path / "ned.testa").write_text(self.CONLL)
        assert "holds esp.testa and ned.testa; keep one" in refused(tmp_path)

    def test_two_columns_with_tabs_and_comments(self, tmp_path: Path) -> None:
        sentence = "# id 4 domain=en\nNew York\tB-LOC\nis\tO\n\n"
        (tmp_path / "train.conll").write_text(sentence * 30)
        assert read_data(str(tmp_path)).train[0] == (("New York", "is"), ("B-LOC", "O"))

    def test_comments_of_as_many_columns_as_words(self, tmp_path: Path) -> None:
        sentence = "# id x domain=train\nParis NNP B-NP B-LOC\n# # O O\n\n"
        (tmp_path / "train.conll").write_text(sentence * 30)
        assert read_data(str(tmp_path)).train[0] == (("Paris", "#"), ("B-LOC", "O"))

    @pytest.mark.parametrize(("line", "found"), [("a b c", 3), ("alone", 1)])
    def test_a_line_of_another_form(self, tmp_path: Path, line: str, found: int) -> None:
        (tmp_path / "train.conll").write_text("a O\n" * 5 + line + "\n")
        assert f"line 6 has {found} columns" in refused(tmp_path)
