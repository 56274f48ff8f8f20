"""Iterative pruning: prune, export, fine-tune the export, search on from it, export again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from axsearch import Study, explain_trial, export_model, finetune, search, verify_export
from axsearch.approximations.choices import Kept, Setting
from axsearch.approximations.site import SiteId
from axsearch.cli.front import front
from axsearch.errors import UsageError
from axsearch.models.base_model import Base
from axsearch.models.exported import open_export
from axsearch.models.fingerprint import model_fingerprint
from axsearch.models.weights import shrink
from axsearch.reporting.figures.latency_table import latency_table_figure
from axsearch.running.holdout import evaluate_front
from axsearch.space.genome import SearchSpace
from axsearch.space.recipe import EXACT, Recipe
from axsearch.study.tables import Tables
from axsearch.tasks.data import read_data
from axsearch.tasks.pretrained import load_model
from axsearch.tasks.record import RECORD
from axsearch.tasks.task import Task
from axsearch.testing.exports import bundle_of, write_export
from axsearch.testing.text import tiny_bert, tiny_tokenizer

A0, F0, A1, F1, A2, F2 = (SiteId(n, kind) for n in range(3) for kind in ("attention", "ffn"))
TOPK = Setting(value=16, mode="renormalised")
FIRST = Recipe.of(
    {
        A0: {"heads": Kept(of=4, kept=(0, 2, 3)), "topk": TOPK},
        F0: {"ffn": Kept(of=64, kept=tuple(range(48)))},
        A1: {"heads": Kept(of=4, kept=())},
        F1: {"ffn": Kept(of=64, kept=())},
        F2: {"ffn": Kept(of=64, kept=())},
    }
)
"""The middle layer removed as a whole, and heads, neurons, an FFN, and all but 16 keys."""


def base_model(folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(folder)
    return model.eval()


@pytest.fixture(scope="module")
def export(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of the tiny BERT after the first step."""
    bundle = bundle_of(base_model(base_dir), FIRST)
    return write_export(bundle, tmp_path_factory.mktemp("first") / "small")


@pytest.fixture(scope="module")
def tuned(export: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned") / "tuned"
    finetune(str(export), str(data_dir), str(folder), epochs=1)
    return folder


@pytest.fixture(scope="module")
def study(tuned: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    storage = f"sqlite:///{tmp_path_factory.mktemp('study')}/studies.db"
    found = search(
        str(tuned), str(data_dir), storage=storage, study="again", trials=6, batch_size=4,
        threads=1, staged=False,
    )  # fmt: skip
    evaluate_front(found)
    return found


def config_of(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "config.json").read_text())
    return found


class TestFinetune:
    def test_keeps_the_sizes_the_recipe_and_the_code_of_the_export(
        self, export: Path, tuned: Path
    ) -> None:
        ours, theirs = config_of(tuned), config_of(export)
        same = ("axsearch", "auto_map", "model_type", "architectures")
        assert {name: ours[name] for name in same} == {name: theirs[name] for name in same}
        code = "modeling_axsearch.py"
        assert (tuned / code).read_text() == (export / code).read_text()
        before, after = (load_file(one / "model.safetensors") for one in (export, tuned))
        assert {n: t.shape for n, t in before.items()} == {n: t.shape for n, t in after.items()}
        trained = {name for name in before if not torch.equal(before[name], after[name])}
        layers = {name for name in before if ".layer." in name}
        assert layers <= trained, sorted(layers - trained)

    def test_opens_as_the_export_does(self, tuned: Path) -> None:
        model = open_export(tuned)
        layers = model.base_model.encoder.layer
        assert len(layers) == 2
        assert layers[0].attention.self.num_attention_heads == 3
        assert layers[0].attention.self.topk == 16
        assert type(model).__name__ == "BertForSequenceClassification"

    def test_with_another_head_it_has_another_class(self, export: Path, tmp_path: Path) -> None:
        data = tmp_path / "data"
        data.mkdir()
        for split in ("train", "validation", "test"):
            rows = [{"tokens": ["good", "film"], "ner_tags": ["B-X", "O"]}] * 8
            rows += [{"tokens": ["bad"], "ner_tags": ["O"]}] * 8
            (data / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        finetune(str(export), str(data), str(tmp_path / "tags"), epochs=1)
        ours = config_of(tmp_path / "tags")["axsearch"]
        assert isinstance(ours, dict)
        assert ours["base_class"] == "BertForTokenClassification"
        assert ours["auto_class"] == "AutoModelForTokenClassification"
        code = (tmp_path / "tags" / "modeling_axsearch.py").read_text()
        assert "class AxsearchModel(BertForTokenClassification)" in code
        assert open_export(tmp_path / "tags").config.id2label == {0: "O", 1: "B-X"}

    def test_a_plain_export_stays_one(self, base_dir: Path, data_dir: Path, tmp_path: Path) -> None:
        layer = Recipe.of({A1: {"heads": Kept(of=4, kept=())}, F1: {"ffn": Kept(of=64, kept=())}})
        export = write_export(bundle_of(base_model(base_dir), layer), tmp_path / "plain")
        finetune(str(export), str(data_dir), str(tmp_path / "tuned"), epochs=1)
        assert not list((tmp_path / "tuned").glob("*.py"))
        assert config_of(tmp_path / "tuned")["axsearch"] == config_of(export)["axsearch"]
        small = load_model(str(tmp_path / "tuned"), AutoModelForSequenceClassification)
        again = bundle_of(small, Recipe.of({F1: {"ffn": Kept(of=64, kept=(0, 9))}}))
        folder = write_export(again, tmp_path / "again")
        recipe = Recipe.read(folder / "recipe.json")
        assert recipe.at(2, "ffn") == {"ffn": Kept(of=64, kept=(0, 9))}  # the original's last layer
        assert recipe.removed(1, "ffn")
        assert verify_export(str(folder)).difference <= 1e-5


class TestSearch:
    def test_ratios_are_to_the_export_as_it_is(self, study: Study, tuned: Path) -> None:
        base = study.baseline
        assert (base.size_ratio, base.latency_ratio) == (1, 1)
        assert base.size_bytes == (tuned / "model.safetensors").stat().st_size
        nothing = dict.fromkeys(("heads", "topk", "ffn", "ffn_topk", "one_token", "vocabulary"))
        assert base.choices == {
            "layer00": {**nothing, "heads": 3, "topk": 16, "ffn": 48},
            "layer01": {**nothing, "heads": 4, "ffn": 0},
            "stack": nothing,
            "embeddings": nothing,
        }
        assert any(m.size_ratio < 1 for m in study.measurements)

    def test_only_what_is_left_is_searched(self, study: Study) -> None:
        levels = study.spec.levels
        assert levels["layer00.heads"][0] == 3
        assert levels["layer01.heads"][0] == 4
        assert levels["layer00.ffn"][0] == 48
        assert "layer01.ffn" not in levels

    def test_of_keys_only_fewer_than_the_export_has_are_tried(self, export: Path) -> None:
        sites = Base(open_export(export), length=48).sites
        orders = {id: range(one.count) for id, one in sites.items()}
        levels = SearchSpace(list(sites.values()), orders, names=["topk", "topk_hard"]).to_dict()
        assert levels == {
            "layer00.topk": [None, 8],
            "layer00.topk_hard": [None, 8],
            "layer01.topk": [None, 32, 16, 8],
            "layer01.topk_hard": [None, 30, 16, 8],
        }

    def test_blocks_of_several_sizes_have_times_of_their_own(self, study: Study) -> None:
        table = Tables(study).latency
        assert table is not None
        assert table.groups == {1: 1}
        assert {"attention", "ffn", "attention@1"} <= set(table.blocks)
        assert "ffn@1" not in table.blocks
        assert table.ratio(EXACT) == pytest.approx(1, abs=0.02)
        figure = latency_table_figure(table, {"heads": 3, "ffn": 48, "heads@1": 4})
        names = {trace.name for trace in figure.data}
        assert {"attention, layer 0", "attention, layer 1", "FFN, layer 0"} <= names
        assert "FFN, layer 1" not in names

    def test_front_and_explanation_count_from_the_export(
        self, study: Study, capsys: pytest.CaptureFixture[str]
    ) -> None:
        front(study.database.url, study.name)
        assert "3/48/k16 4/0" in capsys.readouterr().out
        member = min(study.measurements, key=lambda m: m.size_bytes)
        assert member.trial is not None
        text = " ".join(map(str, explain_trial(study, member.trial).to_dict().values()))
        assert "of 7 heads" in text or "of 48 neurons" in text

    @pytest.mark.parametrize("format", ["hf", "onnx"])
    def test_what_it_finds_is_exported(self, study: Study, tmp_path: Path, format: str) -> None:
        member = min(study.measurements, key=lambda m: m.size_bytes)
        assert member.trial is not None
        out = tmp_path / "out"
        folder = export_model(study, member.trial, str(out), format=format, force=True)
        verified = verify_export(str(folder), storage=study.database.url)
        assert verified.difference <= (1e-5 if format == "hf" else 1e-3)
        assert verified.trial == member.trial
        assert "That base is itself an export" in (folder / "README.md").read_text()
        joint = Recipe.read(folder / "recipe.json")
        assert joint.removed(1, "attention")
        assert joint.removed(1, "ffn")
        assert joint.removed(2, "ffn")
        for site, _, choice in joint.choices():
            if isinstance(choice, Kept):
                assert choice.of == (4 if site.kind == "attention" else 64)

    def test_the_export_as_it_is_can_be_exported(self, study: Study, tmp_path: Path) -> None:
        trial = study.baseline.trial
        assert trial is not None
        folder = export_model(study, trial, str(tmp_path / "same"), force=True)
        assert Recipe.read(folder / "recipe.json") == FIRST
        assert verify_export(str(folder)).difference <= 1e-5


def test_a_float16_export_is_searched_in_float16(
    base_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    half = Path(shutil.copytree(base_dir, tmp_path / "half"))
    path = half / "model.safetensors"
    state = {name: tensor.half() for name, tensor in load_file(path).items()}
    save_file(state, path, metadata={"format": "pt"})

    def step(model: Path, name: str) -> Path:
        study = search(
            str(model), str(data_dir), storage=f"sqlite:///{tmp_path}/s.db", study=name, trials=3,
            objectives=("accuracy", "size"), staged=False,
        )  # fmt: skip
        found = [m for m in study.measurements if m.size_ratio < 1]
        trial = max(found, key=lambda m: m.size_bytes).trial
        assert trial is not None
        folder = export_model(study, trial, str(tmp_path / f"out-{name}"), force=True)
        assert study.spec.file_dtype == "float16"
        verify_export(str(folder))
        return folder

    once = step(half, "once")
    twice = step(once, "twice")
    sizes = [(one / "model.safetensors").stat().st_size for one in (half, once, twice)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3
    kept = load_file(twice / "model.safetensors").values()
    assert {tensor.dtype for tensor in kept} == {torch.float16}


def test_missing_splits_are_cut_as_those_of_its_base(
    base_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "validation"):  # the test split is cut
        shutil.copy(data_dir / f"{split}.csv", data)
    base = Path(shutil.copytree(base_dir, tmp_path / "base"))
    (base / RECORD).write_text(json.dumps({"learnt": read_data(str(data)).learnt}))
    first = Task.load(str(base), str(data))
    bundle = replace(bundle_of(base_model(base), FIRST), learnt=first.learnt)
    export = write_export(bundle, tmp_path / "export")
    second = Task.load(str(export), str(data))
    assert second.split_fingerprints == first.split_fingerprints
    assert second.learnt == first.learnt
    assert verify_export(str(export)).difference <= 1e-5
    unknown = write_export(replace(bundle, learnt=None), tmp_path / "unknown")
    assert Task.load(str(unknown), str(data)).split_fingerprints != first.split_fingerprints


def test_what_is_in_no_weights_tells_two_exports_apart() -> None:
    base = tiny_bert()
    few, fewer = (
        shrink(base, Recipe.of({A0: {"topk": Setting(value=k, mode="hard")}})) for k in (9, 8)
    )
    assert model_fingerprint(few) != model_fingerprint(fewer)
    assert model_fingerprint(few) != model_fingerprint(base)


def test_the_tokenizer_of_an_export_is_read_without_asking_to_run_its_code(
    export: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(_: object = "") -> str:
        raise AssertionError("transformers asked")

    monkeypatch.setattr("builtins.input", ask)
    task = Task.load(str(export), str(data_dir))
    assert len(task.tokenizer) == len(tiny_tokenizer())
    assert task.model.config.model_type == "bert"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"recipe": {"version": 9}}, "is not a valid recipe"),
        ({"layers": [0, "two"]}, "not as axsearch writes it"),
        ({"layers": [2, 0]}, "not as axsearch writes it"),
        ({"layers": [0]}, "lack 4 tensors of its config"),
        ({"base_class": "BertModel"}, "names a model that axsearch does not write"),
        ({"recipe": {"version": 1, "sites": {}}}, "do not fit its config.json"),
    ],
)
def test_an_export_whose_config_was_edited_is_refused(
    export: Path, data_dir: Path, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    folder = Path(shutil.copytree(export, tmp_path / "edited"))
    config = json.loads((folder / "config.json").read_text())
    config["axsearch"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=words):
        Task.load(str(folder), str(data_dir))
