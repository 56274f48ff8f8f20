from __future__ import annotations

import ast
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open

from axsearch import Study, export_model, search, shrink, verify_export
from axsearch.approximations import choice_types
from axsearch.approximations.choices import Kept, Setting
from axsearch.approximations.site import SiteId
from axsearch.errors import AxsearchError, UsageError
from axsearch.export import Bundle, hf
from axsearch.export.card import model_card
from axsearch.export.manifest import NAME, Manifest
from axsearch.models.architectures import architectures
from axsearch.models.base_model import Base
from axsearch.models.modeling_source import modeling_source
from axsearch.models.refit.compensation import Moments
from axsearch.space.recipe import Compensation, Recipe
from axsearch.study.comparison import against_base
from axsearch.system import new_process as checking
from axsearch.system import staging
from axsearch.tasks.kinds import task_kinds
from axsearch.testing.exports import bundle_of, write_export
from axsearch.testing.models import tiny_model
from axsearch.testing.text import tiny_bert
from tests.common_fixtures import fill

IN_NEW_PROCESS = checking.in_new_process  # before the session's fixtures
A0, F0 = SiteId(0, "attention"), SiteId(0, "ffn")
A1, F1 = SiteId(1, "attention"), SiteId(1, "ffn")
RECIPE = Recipe.of(
    {A0: {"heads": Kept(of=4, kept=(1, 3)), "topk": Setting(value=3, mode="hard")}}
    | {F1: {"ffn": Kept(of=64, kept=tuple(range(0, 64, 3)))}}
)
LAYER_ONLY = Recipe.of({A1: {"heads": Kept(of=4, kept=())}, F1: {"ffn": Kept(of=64, kept=())}})


@pytest.fixture(scope="module", autouse=True)
def _checked_in_new_processes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(checking, "in_new_process", IN_NEW_PROCESS)
        yield


@pytest.fixture(scope="module")
def study(base_dir: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    storage = f"sqlite:///{tmp_path_factory.mktemp('study') / 'studies.db'}"
    return search(
        str(base_dir), str(data_dir), storage=storage, study="s", trials=6, batch_size=4,
        objectives=("accuracy", "size"), compensation="least_squares",
    )  # fmt: skip


@pytest.fixture(scope="module")
def exported(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_model(study, 5, str(tmp_path_factory.mktemp("export") / "small"))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of a tiny BERT with top-k attention, which needs its modeling file."""
    return write_export(bundle_of(tiny_bert(), RECIPE), tmp_path_factory.mktemp("made") / "made")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of a tiny BERT without its second layer, which needs no code."""
    folder = tmp_path_factory.mktemp("plain") / "plain"
    return write_export(bundle_of(tiny_bert(), LAYER_ONLY), folder)


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    """A copy of ``written`` to be tampered with."""
    return Path(shutil.copytree(written, tmp_path / "copy"))


def sign(folder: Path) -> None:
    """A new manifest, as anybody can write it: it holds no secret."""
    (folder / NAME).unlink()
    Manifest.of(folder, "hf").write(folder)


@pytest.fixture
def unopened(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process may be started to open the folder."""

    def opened(*_: object) -> float:
        raise AssertionError("the folder was opened")

    monkeypatch.setattr(hf, "run_check", opened)


def test_an_export_is_complete_and_verified(exported: Path, study: Study) -> None:
    found = verify_export(str(exported))
    assert found.difference <= 1e-5
    assert found.files == len(list(exported.iterdir())) - 1
    assert Recipe.read(exported / "recipe.json").to_dict() == study.trial(5).recipe
    with safe_open(exported / "model.safetensors", "pt") as file:
        total = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    assert total == study.trial(5).parameters
    assert not list(exported.parent.glob(".small-*"))  # nothing temporary is left


def test_the_card_says_what_was_measured(exported: Path, study: Study) -> None:
    _, front_matter, text = (exported / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front_matter)["pipeline_tag"] == "text-classification"
    measured = study.trial(5)
    for value in (f"{measured.accuracy:.4f}", f"{measured.size_bytes:,}", "trust_remote_code=True"):
        assert value in text
    expected = study.expectation(measured)
    held = against_base(study, [measured], "holdout")[5]
    assert expected is not None
    assert f"| drop in accuracy, expected on new data | {expected.drop:z.4f} (" in text
    drop = f"{held.drop.value:z.4f} ({held.drop.low:z.4f} to {held.drop.high:z.4f})"
    assert f"| drop in accuracy, holdout split, example by example | {drop} |" in text
    assert ("this model differs from the base there" in text) == held.differs
    assert ("no difference to the base is shown there" in text) != held.differs
    for layer, choices in measured.choices.items():
        heads = choices["heads"] if layer.startswith("layer") else ""
        assert f"| {layer} | {heads} |" in text


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


@pytest.mark.usefixtures("unopened")
@pytest.mark.parametrize(
    "damage",
    [
        _cut_short,
        _flip_a_weight,
        _edit("recipe.json", '"version": 1', '"version": 2'),
        _edit("config.json", "axsearch_bert", "bert_axsearch"),
        _edit("modeling_axsearch.py", "import torch", "import os, torch"),
        _edit(NAME, '"format": "hf"', '"format": "xx"'),
        _edit(NAME, "{", "["),
        _remove,
        _add,
        _link,
    ],
)
def test_a_damaged_export_is_refused_and_the_file_named(
    copy: Path, damage: Callable[[Path], str]
) -> None:
    name = damage(copy)
    with pytest.raises(UsageError, match=name):
        verify_export(str(copy))


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    ours = changes.pop("ours", {})
    assert isinstance(ours, dict)
    config = {**config, **changes, "axsearch": {**config["axsearch"], **ours}}
    path.write_text(json.dumps({key: value for key, value in config.items() if value != "gone"}))


OWN_MAP = {
    "AutoConfig": "modeling_axsearch.AxsearchConfig",
    "AutoModelForSequenceClassification": "modeling_axsearch.AxsearchModel",
}


@pytest.mark.usefixtures("unopened")
class TestForeignCodeIsNotRun:
    """A folder that was tampered with and whose manifest fits again."""

    def refused(self, folder: Path, match: str) -> None:
        sign(folder)
        with pytest.raises(UsageError, match=match):
            verify_export(str(folder))

    def test_an_edited_modeling_file(self, copy: Path) -> None:
        modeling = copy / "modeling_axsearch.py"
        modeling.write_text(modeling.read_text() + "\nprint('ran')\n")
        self.refused(copy, "modeling_axsearch.py is not the file .* so it is not run")

    def test_a_missing_modeling_file(self, copy: Path) -> None:
        (copy / "modeling_axsearch.py").unlink()
        self.refused(copy, "modeling_axsearch.py is not the file")

    @pytest.mark.parametrize(
        "auto_map",
        [
            "gone",
            None,
            {},
            [],
            {**OWN_MAP, "AutoConfig": "modeling_axsearch.x--evil.Config"},
            {**OWN_MAP, "AutoConfig": "x/y--modeling_axsearch.AxsearchConfig"},
            {**OWN_MAP, "AutoTokenizer": "modeling_axsearch.AxsearchModel"},
            {"AutoConfig": OWN_MAP["AutoConfig"]},
        ],
        ids=str,
    )
    def test_another_auto_map(self, copy: Path, auto_map: object) -> None:
        edit_config(copy, auto_map=auto_map)
        self.refused(copy, "so it is not run")

    @pytest.mark.parametrize(
        "ours",
        [
            {"base_class": "BertForTokenClassification"},
            {"base_class": "RobertaForSequenceClassification"},
            {"base_class": "BertForSequenceClassification\nimport os"},
            {"base_class": None},
            {"base_class": ["BertForSequenceClassification"]},
            {"base_class": "gone"},
            {"auto_class": "AutoModelForTokenClassification"},
            {"auto_class": "AutoModel"},
            {"auto_class": "AutoModelForNothing"},
            {"auto_class": "AutoTokenizer"},
            {"auto_class": "BertForSequenceClassification"},
            {"auto_class": None},
            {"auto_class": {"a": 1}},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("kind", ["remote", "plain"])
    def test_another_class(
        self, copy: Path, plain: Path, tmp_path: Path, kind: str, ours: dict[str, object]
    ) -> None:
        folder = copy
        if kind == "plain":
            folder = Path(shutil.copytree(plain, tmp_path / "plain"))
        edit_config(folder, ours=ours)
        self.refused(folder, "config.json names a model that axsearch does not write")

    @pytest.mark.parametrize(
        "model_type",
        ["bart", "axsearch_bart", "axsearch_axsearch_bert", "axsearch_roberta", "", None, ["bert"]],
        ids=str,
    )
    def test_another_family(self, copy: Path, model_type: object) -> None:
        edit_config(copy, model_type=model_type)
        self.refused(copy, "config.json names a model that axsearch does not write")

    def test_classes_that_fit_each_other_but_not_the_modeling_file(self, copy: Path) -> None:
        ours = {
            "base_class": "BertForTokenClassification",
            "auto_class": "AutoModelForTokenClassification",
        }
        edit_config(copy, ours=ours)
        self.refused(copy, "so it is not run")
        auto_map = {
            "AutoConfig": OWN_MAP["AutoConfig"],
            "AutoModelForTokenClassification": "modeling_axsearch.AxsearchModel",
        }
        edit_config(copy, ours=ours, auto_map=auto_map)
        self.refused(copy, "so it is not run")

    @pytest.mark.parametrize("ours", [None, [], "x", 3], ids=str)
    def test_no_entry_of_ours(self, copy: Path, ours: object) -> None:
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps({**config, "axsearch": ours}))
        self.refused(copy, "config.json names a model that axsearch does not write")

    @pytest.mark.parametrize("text", ["[]", "3", "", "{", "null"])
    def test_a_config_that_is_no_object(self, copy: Path, text: str) -> None:
        (copy / "config.json").write_text(text)
        self.refused(copy, "config.json is missing or damaged")

    def test_code_in_a_plain_checkpoint(self, plain: Path, written: Path, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(plain, tmp_path / "one"))
        edit_config(folder, auto_map=OWN_MAP)
        self.refused(folder, "so it is not run")
        folder = Path(shutil.copytree(plain, tmp_path / "two"))
        (folder / "modeling_axsearch.py").write_text("print('ran')")
        self.refused(folder, "so it is not run")
        folder = Path(shutil.copytree(plain, tmp_path / "three"))
        shutil.copy(written / "modeling_axsearch.py", folder)  # ours, but of no use here
        self.refused(folder, "so it is not run")

    @pytest.mark.parametrize("name", ["evil.py", "pytorch_model.bin", "x.so", "modeling.pyc"])
    @pytest.mark.parametrize("kind", ["remote", "plain"])
    def test_a_file_of_another_kind(
        self, copy: Path, plain: Path, tmp_path: Path, kind: str, name: str
    ) -> None:
        folder = copy if kind == "remote" else Path(shutil.copytree(plain, tmp_path / "plain"))
        (folder / name).write_text("print('ran')")
        self.refused(folder, f"{name} is not as axsearch writes it")

    @pytest.mark.parametrize("name", ["AutoTokenizer", "AutoProcessor"])
    def test_code_named_by_the_tokenizer(self, copy: Path, name: str) -> None:
        config = json.loads((copy / "tokenizer_config.json").read_text())
        config["auto_map"] = {name: [None, "modeling_axsearch.AxsearchModel"]}
        (copy / "tokenizer_config.json").write_text(json.dumps(config))
        self.refused(copy, "tokenizer_config.json is not as axsearch writes it")

    @pytest.mark.parametrize(
        "name",
        [
            "adapter_config.json",  # peft's: the model is another one, from the hub
            "modules.json",  # sentence-transformers': classes to import
            "model.safetensors.index.json",
            "processor_config.json",
            "generation_config.json",
            "pipeline.md",
        ],
    )
    def test_a_file_that_other_libraries_read(self, copy: Path, name: str) -> None:
        (copy / name).write_text('{"base_model_name_or_path": "somebody/model"}')
        self.refused(copy, f"{name} is not as axsearch writes it")

    @pytest.mark.parametrize(
        "entry",
        [
            {"attn_implementation": "somebody/kernels"},
            {"attn_implementation": "flash_attention_2"},  # for which transformers fetches kernels
            {"attn_implementation": {"": "somebody/kernels"}},
            {"_attn_implementation": "somebody/kernels"},
            {"_attn_implementation_internal": "somebody/kernels"},
            {"experts_implementation": "somebody"},
            {"quantization_config": {"quant_method": "fp8"}},
            {"quantization_config": {"load_in_8bit": True}},
            {"compression_config": {"quant_method": "somebody"}},
            {"custom_pipelines": {"text-classification": {"impl": "pipeline"}}},
            {"fusion_config": {"a": "b"}},
            {"distributed_config": {"a": "b"}},
            {"per_layer_config": {"0": {"hidden_act": "gelu"}}},
            {"transformers_weights": "../other.safetensors"},
            {"configuration_files": ["config.4.0.0.json"]},
            {"name_or_path": "somebody/model"},
            {"something_new": "somebody/kernels"},
            {"something_new": {"a": 1}},
            {"something_new": ["a", ["b:c"]]},
            {"sentence_transformers": {"activation_fn": "somebody.module.Activation"}},
            {"sbert_ce_default_activation_function": "os.system"},
            {"task_specific_params": {"a": {"b": "https://somebody"}}},
            {"to_dict": 1},
            {"__class__": "x"},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("kind", ["remote", "plain"])
    def test_an_entry_that_can_name_code(
        self, copy: Path, plain: Path, tmp_path: Path, kind: str, entry: dict[str, object]
    ) -> None:
        folder = copy if kind == "remote" else Path(shutil.copytree(plain, tmp_path / "plain"))
        edit_config(folder, **entry)
        (name,) = entry
        self.refused(folder, f"config.json has the entry '{name}', which axsearch does not write")

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("architectures", ["AutoModel"]),
            ("architectures", "gone"),
            ("model_type", "bert"),
            ("axsearch", {"more": "x"}),
            ("axsearch", {"layers": "gone"}),
            ("axsearch", {"recipe": LAYER_ONLY.to_dict()}),
        ],
        ids=str,
    )
    def test_an_entry_that_the_recipe_and_the_class_do_not_imply(
        self, copy: Path, name: str, value: object
    ) -> None:
        config = json.loads((copy / "config.json").read_text())
        config[name] = {**config[name], **value} if isinstance(value, dict) else value
        entries = {k: v for k, v in config.items() if v != "gone"}
        entries["axsearch"] = {k: v for k, v in entries["axsearch"].items() if v != "gone"}
        (copy / "config.json").write_text(json.dumps(entries))
        self.refused(copy, f"config.json has another '{name}' than the recipe")

    @pytest.mark.parametrize("change", [{"hidden_size": "many"}, {"dtype": "float33"}], ids=str)
    def test_a_config_that_its_class_cannot_read(
        self, copy: Path, change: dict[str, object]
    ) -> None:
        edit_config(copy, **change)
        self.refused(copy, r"config.json cannot be read: .*; export it again")

    def test_missing_weights(self, copy: Path) -> None:
        (copy / "model.safetensors").unlink()
        self.refused(copy, "is not as axsearch writes it|model.safetensors")


def test_a_folder_that_was_left_alone_is_opened(
    written: Path, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Or the refusals above would show nothing; a plain checkpoint without leave to run code.
    for folder, leave in ((written, "1"), (plain, "0")):
        given: list[object] = []
        monkeypatch.setattr(hf, "run_check", lambda _, *rest, to=given: to.extend(rest) or 0.0)
        assert verify_export(str(folder)).files == len(list(folder.iterdir())) - 1
        assert given == [folder, "AutoModelForSequenceClassification", leave]


OTHERS: dict[str, object] = {
    "gradient_checkpointing": False, "tie_weights_": True, "directionality": "bidi",
    "finetuning_task": "sst-2", "pruned_heads": {}, "position_buckets": 256, "pooler_size": None,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "sentence_transformers": {
        "activation_fn": "torch.nn.modules.linear.Identity", "version": "5.1.0"
    },
}  # fmt: skip
"""Entries of published configs that are not those of the class."""


def test_other_entries_of_a_base_are_kept_where_they_can_name_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf, "run_check", lambda *_: 0.0)
    base = tiny_bert()
    strange = {"attn_implementation": "sdpa", "made_from": "somebody/model", "a_config": {"b": 1}}
    for name, value in (OTHERS | strange).items():
        setattr(base.config, name, value)
    for recipe in (RECIPE, LAYER_ONLY):
        folder = write_export(bundle_of(base, recipe), tmp_path / recipe.hash)
        written = json.loads((folder / "config.json").read_text())
        assert {name: written[name] for name in OTHERS} == OTHERS
        assert not strange.keys() & written.keys()
        assert verify_export(str(folder)).difference == 0


# Where exports go


def test_an_export_in_git_is_verified_with_its_card_edited(
    copy: Path, unopened: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf, "run_check", lambda *_: 0.0)
    assert not verify_export(str(copy)).card_edited
    (copy / ".gitattributes").write_text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
    (copy / ".gitignore").write_text("*.log\n")
    (copy / ".git" / "hooks").mkdir(parents=True)
    (copy / ".git" / "hooks" / "post-checkout.py").write_text("print('ran')")
    (copy / ".cache" / "huggingface" / "download").mkdir(parents=True)
    (copy / ".huggingface").mkdir()
    assert not verify_export(str(copy)).card_edited
    with (copy / "README.md").open("a") as card:
        card.write("\nServed since May.\n")
    found = verify_export(str(copy))
    assert found.card_edited
    assert found.files == len([p for p in copy.iterdir() if p.name[0] != "."]) - 1


@pytest.mark.usefixtures("unopened")
@pytest.mark.parametrize("name", [".cache/pip", ".hidden", "__pycache__", "custom_generate"])
def test_other_folders_do_not_belong_there(copy: Path, name: str) -> None:
    (copy / name).mkdir(parents=True)
    with pytest.raises(UsageError, match=f"{name.split('/')[0]} does not belong to the export"):
        verify_export(str(copy))


def test_a_snapshot_of_the_hub_is_links_to_blobs(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf, "run_check", lambda *_: 0.0)
    repository = tmp_path / "models--me--small"
    snapshot = repository / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    blobs = repository / "blobs"
    blobs.mkdir()
    for path in written.iterdir():
        blob = blobs / f"{len([*blobs.iterdir()]):040x}"
        shutil.copy(path, blob)
        (snapshot / path.name).symlink_to(Path("../../blobs") / blob.name)
    monkeypatch.chdir(snapshot)
    for folder in (str(snapshot), "."):
        assert not verify_export(folder).card_edited
    outside = shutil.copy(written / "probe.json", tmp_path)
    (snapshot / "probe.json").unlink()
    (snapshot / "probe.json").symlink_to(outside)
    with pytest.raises(UsageError, match=r"probe\.json is missing"):
        verify_export(str(snapshot))


@pytest.mark.usefixtures("unopened")
@pytest.mark.parametrize("name", ["config.json", "modeling_axsearch.py", "recipe.json"])
def test_line_endings_that_git_changed_are_named(copy: Path, name: str) -> None:
    for path in (copy / name, copy / NAME):  # whose own checksum is that of what it says
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    with pytest.raises(UsageError, match=rf"{name} has other line endings .* core\.autocrlf"):
        verify_export(str(copy))
    (copy / name).write_bytes((copy / name).read_bytes() + b"\r\n")
    with pytest.raises(UsageError, match=f"{name} has .* bytes, not the"):
        verify_export(str(copy))


@pytest.mark.usefixtures("unopened")
def test_a_clone_without_its_large_files_is_named(copy: Path) -> None:
    (copy / "model.safetensors").write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 100000\n"
    )
    with pytest.raises(UsageError, match=r"only the pointer of Git LFS; run `git lfs pull`"):
        verify_export(str(copy))


def test_a_database_shows_whether_the_checksums_are_those_that_were_written(
    study: Study, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf, "run_check", lambda *_: 0.0)
    storage = study.database.engine.url.render_as_string(hide_password=False)
    moved = Path(shutil.copytree(exported, tmp_path / "moved"))
    (moved / NAME).write_bytes((moved / NAME).read_bytes().replace(b"\n", b"\r\n"))
    for name in (None, "s"):
        found = verify_export(str(moved), storage=storage, study=name)
        assert (found.study, found.trial) == ("s", 5)
    assert verify_export(str(moved)).study is None
    with pytest.raises(UsageError, match="was exported from the study 's', not 'other'"):
        verify_export(str(moved), storage=storage, study="other")
    with pytest.raises(UsageError, match="give its `storage`"):
        verify_export(str(moved), study="s")
    config = json.loads((moved / "config.json").read_text())
    labels = {name: f"not {label}" for name, label in config["id2label"].items()}
    (moved / "config.json").write_text(json.dumps({**config, "id2label": labels}))
    sign(moved)
    assert verify_export(str(moved)).files > 3  # the folder alone cannot show it
    with pytest.raises(UsageError, match="The database has no record of"):
        verify_export(str(moved), storage=storage)


def test_the_probe_is_long_enough_to_show_top_k() -> None:
    base = tiny_bert()
    recipe = Recipe.of({A0: {"topk": Setting(value=24, mode="renormalised")}})
    bundle = bundle_of(base, recipe)
    with torch.inference_mode():
        dense = base(**bundle.probe_inputs).logits
    assert bundle.probe_inputs["input_ids"].shape[1] > 2 * 24
    assert (dense - bundle.probe_outputs["logits"]).abs().max() > 1e-4


def test_a_probe_is_not_longer_than_the_model_can_read() -> None:
    bundle = bundle_of(tiny_bert(), Recipe.of({A0: {"topk": Setting(value=60, mode="hard")}}))
    assert bundle.probe_inputs["input_ids"].shape[1] == 64
    assert bundle.probe_outputs["logits"].isfinite().all()


def test_other_answers_are_found(tmp_path: Path) -> None:
    # Of a vision model, which is opened without a tokenizer.
    recipe = Recipe.of({A0: {"heads": Kept(of=4, kept=())}, F0: {"ffn": Kept(of=64, kept=(1, 2))}})
    folder = write_export(bundle_of(tiny_model("vit"), recipe), tmp_path / "vit")
    probe = json.loads((folder / "probe.json").read_text())
    assert set(probe["inputs"]) == {"pixel_values"}
    probe["outputs"]["logits"][0][0] += 1e-3
    (folder / "probe.json").write_text(json.dumps(probe))
    sign(folder)
    with pytest.raises(AxsearchError, match=r"differ by 1\.0e-03"):
        verify_export(str(folder))


def test_no_number_is_no_small_difference(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf, "run_check", lambda *_: float("nan"))
    with pytest.raises(AxsearchError, match="differ by nan"):
        verify_export(str(copy))


@pytest.mark.parametrize("way", ["bias", "least_squares"])
def test_a_compensated_model_is_written_as_it_was_measured(
    tmp_path: Path, way: Compensation
) -> None:
    base = tiny_bert()
    draw = torch.Generator().manual_seed(0)
    means, covariances = {}, {}
    for site in Base(base).sites.values():
        if site.units is None:
            continue
        sample = torch.randn(100, site.units.count * site.units.width, generator=draw)
        means[site.id], covariances[site.id] = sample.mean(0).double(), sample.T.cov().double()
    moments = Moments(means, covariances)
    recipe = Recipe.of({F1: {"ffn": Kept(of=64, kept=tuple(range(20)))}}, way)
    folder = write_export(bundle_of(base, recipe, moments), tmp_path / "made")
    small = shrink(base, recipe, moments).state_dict()
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(small)
        assert all(torch.equal(file.get_tensor(name), small[name]) for name in small)
    changed = "bert.encoder.layer.1.output.dense.bias"
    assert not torch.equal(small[changed], base.state_dict()[changed])
    assert Recipe.read(folder / "recipe.json").compensation == way
    card = (folder / "README.md").read_text()
    assert ("to the biases" in card) is (way == "bias")
    assert ("refitted on calibration examples" in card) is (way == "least_squares")


def test_the_card_says_which_texts_were_cut() -> None:
    bundle = bundle_of(tiny_bert(), Recipe.of({}))
    assert "\nData: `a/dataset`.\n" in model_card(bundle, "hf")
    cut = "3 of 9 texts are longer than 512 tokens and are cut, by 20% on average."
    assert f"\nData: `a/dataset`. {cut}\n" in model_card(replace(bundle, cut=cut), "hf")


def test_the_card_says_how_to_load_it(written: Path, plain: Path) -> None:
    remote, alone = ((folder / "README.md").read_text() for folder in (written, plain))
    call = 'AutoModelForSequenceClassification.from_pretrained("FOLDER"'
    assert f"{call}, trust_remote_code=True)" in remote
    assert f"{call})" in alone
    assert "trust_remote_code" not in alone
    assert "It is a plain checkpoint" in alone
    assert "AXSEARCH_NATIVE" in remote  # its top-k attention compiles
    assert "AXSEARCH_NATIVE" not in alone
    for card in (remote, alone):
        assert "| accuracy, search split | 0.9100 (0.8700 to 0.9400) |" in card
        assert "| accuracy, holdout split | 0.8300 (0.7900 to 0.8700) |" in card
    assert "| layer00 | 2 | 3 | 64 | all |" in remote
    assert "| layer01 | 0 | all | 0 | all |" in alone


def test_an_export_that_cannot_be_is_refused(
    study: Study, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="not empty"):
        export_model(study, 5, str(exported))
    with pytest.raises(UsageError, match="no finished trial 99"):
        export_model(study, 99, str(tmp_path / "x"))
    with pytest.raises(UsageError, match=r"'tflite' is not in this version; choose .*hf"):
        export_model(study, 5, str(tmp_path / "x"), format="tflite")
    with pytest.raises(UsageError, match="not an export"):
        verify_export(str(tmp_path))
    other = study.spec.model_copy(update={"model_fingerprint": "0" * 64})
    changed = Study(study.database, study.name, study.spec)
    measured = changed.trial(5)
    monkeypatch.setattr(changed, "spec", other)
    monkeypatch.setattr(changed, "trial", lambda number: measured)
    with pytest.raises(UsageError, match="is not the one that the study was made with"):
        export_model(changed, 5, str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()


def test_a_model_no_better_than_the_trivial_answer_needs_force(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = task_kinds()["text-classification"]
    monkeypatch.setattr(type(kind), "trivial", lambda *_: 1.0)
    with pytest.raises(
        UsageError, match=r"Trial 5 has accuracy 0\.\d+ .* no better than .*`force=True`"
    ):
        export_model(study, 5, str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()
    assert (export_model(study, 5, str(tmp_path / "x"), force=True) / NAME).is_file()


def test_an_export_that_is_stopped_leaves_nothing(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(_: object, __: Bundle, folder: Path) -> None:
        (folder / "model.safetensors").touch()
        signal.raise_signal(signal.SIGTERM)

    killed = tmp_path / ".small-8b_1x2y3" / "content"
    killed.mkdir(parents=True)
    (killed.parent / staging.LOCK).touch()
    os.utime(killed.parent, (0, 0))
    monkeypatch.setattr(hf.HuggingFace, "write", stopped)
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with pytest.raises(KeyboardInterrupt):
            export_model(study, 5, str(tmp_path / "small"), force=True)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("model_type", architectures())
def test_the_modeling_file_stands_alone(model_type: str) -> None:
    types = choice_types()  # all that a recipe may use
    base = type(tiny_model(model_type))
    source = modeling_source(base, "AutoModelForSequenceClassification", types)
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
    imported = [
        (alias.asname or alias.name).split(".")[0]
        for node in ast.parse(source).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    ]
    assert not set(imported) & set(defined)


def test_a_disk_that_is_full_or_becomes_so(study: Study, small_disk: Path) -> None:
    size = study.trial(5).size_bytes
    ballast = fill(small_disk, size - 8192)
    with pytest.raises(UsageError, match=r"The weights alone take 0.\d MB, and the disk of"):
        export_model(study, 5, str(small_disk / "new" / "small"))
    assert [*small_disk.iterdir()] == [ballast]
    ballast.unlink()
    ballast = fill(small_disk, size + 8192)  # the weights have room, what comes with them has not
    with pytest.raises(AxsearchError, match="became full, and nothing was written"):
        export_model(study, 5, str(small_disk / "small"))
    assert [*small_disk.iterdir()] == [ballast]
    ballast.unlink()
    folder = export_model(study, 5, str(small_disk / "small"))
    assert verify_export(str(folder)).files > 3
