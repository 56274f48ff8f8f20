from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open

from axsearch import Study, Task, export_model, search, shrink, verify_export
from axsearch.architectures import architectures
from axsearch.errors import AxsearchError, UsageError
from axsearch.export import formats
from axsearch.export.base import Bundle
from axsearch.export.manifest import NAME, Manifest
from axsearch.export.modeling_source import modeling_source
from axsearch.kernels.native import native_library
from axsearch.recipe import Choice, Kept, Recipe, Setting, SiteId

A0, F0 = SiteId(0, "attention"), SiteId(0, "ffn")
A1, F1 = SiteId(1, "attention"), SiteId(1, "ffn")
A2, F2 = SiteId(2, "attention"), SiteId(2, "ffn")

NO_HEADS, NO_NEURONS = Kept(of=4, kept=()), Kept(of=64, kept=())

RECIPES: dict[str, dict[SiteId, dict[str, Choice]]] = {
    "exact": {},
    "heads": {A0: {"heads": Kept(of=4, kept=(1, 3))}, A2: {"heads": Kept(of=4, kept=(0,))}},
    "neurons": {F1: {"ffn": Kept(of=64, kept=tuple(range(0, 64, 3)))}},
    "attention block": {A1: {"heads": NO_HEADS}},
    "ffn block": {F2: {"ffn": NO_NEURONS}},
    "layer": {A0: {"heads": NO_HEADS}, F0: {"ffn": NO_NEURONS}},
    "top-k": {A1: {"topk": Setting(value=3, mode="renormalised")}},
    "hard top-k": {A0: {"topk": Setting(value=2, mode="hard")}},
    "everything": {
        A0: {"heads": NO_HEADS},
        F0: {"ffn": NO_NEURONS},
        A1: {"heads": Kept(of=4, kept=(2,)), "topk": Setting(value=4, mode="hard")},
        F1: {"ffn": NO_NEURONS},
        A2: {"heads": NO_HEADS},
    },
    "nothing left": {
        site: {"heads": NO_HEADS} if site.kind == "attention" else {"ffn": NO_NEURONS}
        for site in (A0, F0, A1, F1, A2, F2)
    },
}

LOAD = """
import json, sys
sys.modules["axsearch"] = None
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
inputs = json.load(open(sys.argv[1]))
found = {}
for folder in sys.argv[2:]:
    AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    model.eval()
    with torch.inference_mode():
        logits = model(**{key: torch.tensor(value) for key, value in inputs.items()}).logits
    found[folder] = [logits.tolist(), sum(p.numel() for p in model.parameters())]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def task(base_dir: Path, data_dir: Path) -> Task:
    return Task.load(str(base_dir), str(data_dir))


@pytest.fixture(scope="module")
def study(base_dir: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    storage = f"sqlite:///{tmp_path_factory.mktemp('study') / 'studies.db'}"
    return search(
        str(base_dir), str(data_dir), storage=storage, study="s", trials=6, batch_size=4,
        objectives=("accuracy", "size"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def exported(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_model(study, 5, str(tmp_path_factory.mktemp("export") / "small"))


def test_every_kind_of_recipe_opens_without_axsearch_with_the_same_logits(
    task: Task, study: Study, tmp_path: Path
) -> None:
    from axsearch import Evaluator

    evaluator = Evaluator(task, study.database.engine, None)
    batch = task.search.collate(range(16))
    (tmp_path / "inputs.json").write_text(json.dumps({k: v.tolist() for k, v in batch.items()}))
    folders, expected = {}, {}
    for number, (kind, sites) in enumerate(RECIPES.items()):
        recipe = Recipe.of(sites)
        folder = tmp_path / str(number)
        folder.mkdir()
        measurement = evaluator.measure(recipe)
        formats()["hf"].write(
            Bundle(
                task.model, task.tokenizer, recipe, measurement, study.baseline, "s", "m", "d",
                "accuracy", None,
            ),
            folder,
        )  # fmt: skip
        model = shrink(task.model, recipe)
        with torch.inference_mode():
            expected[kind] = model(**batch).logits
        folders[kind] = folder
        assert (folder / "model.safetensors").stat().st_size == measurement.size_bytes
        compiles = any(choices["topk"] for choices in measurement.choices.values())
        assert ("AXSEARCH_NATIVE" in (folder / "README.md").read_text()) is compiles
        assert compiles is (kind in ("top-k", "hard top-k", "everything"))
    done = subprocess.run(
        [sys.executable, "-I", "-c", LOAD, tmp_path / "inputs.json", *folders.values()],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    for kind, folder in folders.items():
        logits, parameters = found[str(folder)]
        difference = (torch.tensor(logits) - expected[kind]).abs().max().item()
        assert difference <= 1e-5, kind
        stored = Recipe.read(folder / "recipe.json")
        assert parameters == evaluator.measure(stored).parameters, kind


def test_an_export_is_complete_and_verified(exported: Path, study: Study) -> None:
    found = verify_export(str(exported))
    assert found.difference <= 1e-5
    assert found.files == len(list(exported.iterdir())) - 1
    assert Recipe.read(exported / "recipe.json").to_dict() == study.trial(5).recipe
    with safe_open(exported / "model.safetensors", "pt") as file:
        total = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    assert total == study.trial(5).parameters
    assert not list(exported.parent.glob(".small-*"))  # nothing temporary is left


@pytest.mark.skipif(native_library() is None, reason="no compiled kernels on this machine")
def test_an_export_runs_the_compiled_kernels_that_were_measured(exported: Path) -> None:
    script = (
        "import sys; sys.modules['axsearch'] = None\n"
        "from transformers import AutoModelForSequenceClassification as A\n"
        "model = A.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "print(sys.modules[type(model).__module__].native_library())"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, exported], capture_output=True, text=True, check=True
    )
    assert "CDLL" in done.stdout


def test_plain_transformers_refuses_it_rather_than_load_it_wrongly(exported: Path) -> None:
    script = (
        "import sys; from transformers import AutoModelForSequenceClassification as A\n"
        "A.from_pretrained(sys.argv[1], trust_remote_code=False)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, exported], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "trust_remote_code" in done.stderr


def test_the_card_says_what_was_measured(exported: Path, study: Study) -> None:
    _, front_matter, text = (exported / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front_matter)["pipeline_tag"] == "text-classification"
    measured = study.trial(5)
    for value in (f"{measured.accuracy:.4f}", f"{measured.size_bytes:,}", "trust_remote_code=True"):
        assert value in text
    for layer, choices in measured.choices.items():
        assert f"| {layer} | {choices['heads']} |" in text


def _cut_short(folder: Path) -> str:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    return weights.name


def _flip_a_weight(folder: Path) -> str:
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    return weights.name


def _edit(name: str, old: str, new: str) -> Callable[[Path], str]:
    def edit(folder: Path) -> str:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))
        return name

    return edit


def _remove(folder: Path) -> str:
    (folder / "tokenizer.json").unlink()
    return "tokenizer.json"


def _add(folder: Path) -> str:
    (folder / "extra.py").write_text("print('hello')")
    return "extra.py"


def _link(folder: Path) -> str:
    (folder / "probe.json").rename(folder.parent / "elsewhere.json")
    (folder / "probe.json").symlink_to(folder.parent / "elsewhere.json")
    return "probe.json"


@pytest.mark.parametrize(
    "damage",
    [
        _cut_short,
        _flip_a_weight,
        _edit("recipe.json", '"version": 1', '"version": 2'),
        _edit("config.json", "axsearch_bert", "bert_axsearch"),
        _edit("modeling_axsearch_bert.py", "import torch", "import os, torch"),
        _edit(NAME, '"format": "hf"', '"format": "xx"'),
        _edit(NAME, "{", "["),
        _remove,
        _add,
        _link,
    ],
)
def test_a_damaged_export_is_refused_and_the_file_named(
    exported: Path, tmp_path: Path, damage: Callable[[Path], str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    name = damage(copy)
    with pytest.raises(UsageError, match=name):
        verify_export(str(copy))


def test_code_that_is_not_axsearchs_is_not_run_even_with_a_fitting_manifest(
    exported: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    proof = tmp_path / "ran"
    modeling = copy / "modeling_axsearch_bert.py"
    modeling.write_text(modeling.read_text() + f"\nopen({str(proof)!r}, 'w').write('ran')\n")
    (copy / NAME).unlink()
    Manifest.of(copy, "hf").write(copy)
    with pytest.raises(UsageError, match=modeling.name):
        verify_export(str(copy))
    assert not proof.exists()


@pytest.mark.parametrize("name", ["AutoTokenizer", "AutoProcessor"])
def test_code_named_by_the_tokenizer_is_not_run(exported: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    proof = tmp_path / "ran"
    (copy / "evil.py").write_text(f"open({str(proof)!r}, 'w').write('ran')\nclass T: pass\n")
    config = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(
        json.dumps({**config, "auto_map": {name: [None, "evil.T"]}})
    )
    for kept in (("evil.py",), ()):
        if not kept:
            (copy / "evil.py").rename(copy / "evil.txt")
        (copy / NAME).unlink()
        Manifest.of(copy, "hf").write(copy)
        with pytest.raises(UsageError, match=r"evil\.py|tokenizer_config\.json"):
            verify_export(str(copy))
    assert not proof.exists()


def test_code_of_another_repository_is_not_run(exported: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    config = json.loads((copy / "config.json").read_text())
    config["auto_map"]["AutoConfig"] = "modeling_axsearch_bert.x--evil.Config"
    (copy / "config.json").write_text(json.dumps(config))
    (copy / NAME).unlink()
    Manifest.of(copy, "hf").write(copy)
    with pytest.raises(UsageError, match="so it is not run"):
        verify_export(str(copy))


def test_the_probe_is_long_enough_to_show_top_k(task: Task, study: Study, tmp_path: Path) -> None:
    from axsearch import Evaluator

    recipe = Recipe.of({A0: {"topk": Setting(value=24, mode="renormalised")}})
    measurement = Evaluator(task, study.database.engine, None).measure(recipe)
    formats()["hf"].write(
        Bundle(
            task.model, task.tokenizer, recipe, measurement, study.baseline, "s", "m", "d",
            "accuracy", None,
        ),
        tmp_path,
    )  # fmt: skip
    probe = json.loads((tmp_path / "probe.json").read_text())
    ids, mask = torch.tensor(probe["input_ids"]), torch.tensor(probe["attention_mask"])
    with torch.inference_mode():
        dense = task.model(input_ids=ids, attention_mask=mask).logits
    assert (dense - torch.tensor(probe["logits"])).abs().max() > 1e-4


def test_other_logits_are_found(exported: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    probe = json.loads((copy / "probe.json").read_text())
    probe["logits"][0][0] += 1e-3
    (copy / "probe.json").write_text(json.dumps(probe))
    (copy / NAME).unlink()
    Manifest.of(copy, "hf").write(copy)
    with pytest.raises(AxsearchError, match=r"differ by 1\.0e-03"):
        verify_export(str(copy))


def test_an_export_that_cannot_be_is_refused(
    study: Study, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="not empty"):
        export_model(study, 5, str(exported))
    with pytest.raises(UsageError, match="no finished trial 99"):
        export_model(study, 99, str(tmp_path / "x"))
    with pytest.raises(UsageError, match="choose hf"):
        export_model(study, 5, str(tmp_path / "x"), format="onnx")
    with pytest.raises(UsageError, match="not an export"):
        verify_export(str(tmp_path))
    other = study.spec.model_copy(update={"model_fingerprint": "0" * 64})
    changed = Study(study.database, study.name, study.spec)
    measured = changed.trial(5)
    monkeypatch.setattr(changed, "spec", other)
    monkeypatch.setattr(changed, "trial", lambda number: measured)
    with pytest.raises(UsageError, match="is not the one that study"):
        export_model(changed, 5, str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("family", architectures().values(), ids=architectures())
def test_the_modeling_file_stands_alone(family: object) -> None:
    source = modeling_source(family, "AutoModelForSequenceClassification")  # type: ignore[arg-type]
    compile(source, "modeling.py", "exec")
    assert "import axsearch" not in source
    assert "from axsearch" not in source
    # Several modules become one, in which a second definition would take the first one's place.
    defined = [
        name
        for node in ast.parse(source).body
        for name in (
            [node.name]
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
            else [t.id for t in node.targets if isinstance(t, ast.Name)]
            if isinstance(node, ast.Assign)
            else []
        )
    ]
    assert len(defined) == len(set(defined))
