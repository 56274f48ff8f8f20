"""An export of every family, opened by transformers in a process that cannot import axsearch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertForSequenceClassification, PreTrainedModel

from axsearch.approximations.choices import Choice, Kept, Setting
from axsearch.approximations.site import SELECTABLE_SCORES, SiteId
from axsearch.errors import UsageError
from axsearch.kernels.native import native_library
from axsearch.models.architectures import architecture_of, architectures
from axsearch.models.weights import shrink
from axsearch.space.recipe import Recipe
from axsearch.testing import processes
from axsearch.testing.exports import bundle_of, write_export
from axsearch.testing.models import PICTURES, padded_batch, tiny_model

NO_HEADS, NO_NEURONS = Kept(of=4, kept=()), Kept(of=64, kept=())
A0, F0, A1, F1 = (SiteId(layer, kind) for layer in (0, 1) for kind in ("attention", "ffn"))

LOAD = """
import json, sys
sys.modules["axsearch"] = None
import torch, transformers
from safetensors.torch import load_file, save_file
found = {}
for folder, auto_class, inputs, remote in json.load(open(sys.argv[1])):
    model, info = getattr(transformers, auto_class).from_pretrained(
        folder, trust_remote_code=remote, output_loading_info=True
    )
    assert not model.training
    with torch.inference_mode():
        answer = model(**load_file(inputs))
    save_file({k: v.contiguous() for k, v in answer.items() if torch.is_tensor(v)}, folder + ".out")
    found[folder] = {
        "class": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "info": {key: len(value) for key, value in info.items()},
    }
    modeling = sys.modules[type(model).__module__]
    if remote and "compiled" not in found:
        found["compiled"] = modeling.native_library() is not None
        try:
            getattr(transformers, auto_class).from_pretrained(folder, trust_remote_code=False)
            found["refused"] = ""
        except ValueError as error:
            found["refused"] = str(error)
print(json.dumps(found))
"""


def recipes(model_type: str) -> dict[str, Recipe]:
    """Every kind of change in two layers, and whole layers."""
    lacks = architecture_of(model_type).lacks
    topk: dict[str, dict[str, Choice]] = {
        mode: {} if SELECTABLE_SCORES in lacks else {"topk": Setting(value=3, mode=mode)}
        for mode in ("renormalised", "hard")
    }
    layers: list[dict[SiteId, dict[str, Choice]]] = [
        {A0: {"heads": NO_HEADS}, F0: {"ffn": NO_NEURONS}},
        {A1: {"heads": NO_HEADS}, F1: {"ffn": NO_NEURONS}},
    ]
    some: dict[str, Choice] = {
        "ffn": Kept(of=64, kept=tuple(range(0, 64, 3))),
        "ffn_topk": Setting(value=9, mode="largest"),
    }
    heads = Kept(of=4, kept=(1, 3))
    return {
        "everything": Recipe.of(
            {
                A0: {"heads": heads, **topk["renormalised"]},
                F0: {"ffn": NO_NEURONS},
                A1: {"heads": NO_HEADS},
                F1: some,
            }
        ),
        "no first layer": Recipe.of(layers[0]),
        "no last layer": Recipe.of(layers[1]),
        "nothing left": Recipe.of(layers[0] | layers[1]),
        "hard": Recipe.of({A0: topk["hard"], A1: {"heads": heads, **topk["hard"]}}),
        "exact": Recipe.of({}),
    }


PLAIN = {"no first layer", "no last layer", "nothing left", "exact"}
NOT_PLAIN = {
    "albert": {"no first layer", "no last layer", "nothing left"},  # groups keep their place
    "deberta-v2": {"no first layer", "nothing left"},  # the convolution's layer does
    "modernbert": {"no first layer", "nothing left"},  # the first layer alone has no norm
}


class Case(NamedTuple):
    model_type: str
    head: str
    kind: str


def cases() -> list[Case]:
    listed = []
    for model_type, family in architectures().items():
        own = "ImageClassification" if model_type in PICTURES else "SequenceClassification"
        kinds = ["everything", "no last layer"]
        if model_type == family.model_types[0]:  # its other types differ in their name alone
            kinds.append("no first layer")
        if model_type in NOT_PLAIN:
            kinds.append("nothing left")
        if model_type in ("bert", "mpnet"):  # one kernel that transformers calls, one called here
            kinds += ["hard", "nothing left", "exact"]
        listed += [Case(model_type, own, kind) for kind in kinds]
        if model_type in ("bert", "distilbert", "roberta"):
            for head in ("TokenClassification", "QuestionAnswering"):
                listed.append(Case(model_type, head, "everything"))
    listed.append(Case("bert", "TokenClassification", "no first layer"))
    return listed


def is_plain(case: Case) -> bool:
    return case.kind in PLAIN - NOT_PLAIN.get(case.model_type, set())


def base_of(case: Case) -> PreTrainedModel:
    own = case.head in ("SequenceClassification", "ImageClassification")
    return tiny_model(case.model_type, None if own else f"AutoModelFor{case.head}")


class Opened(NamedTuple):
    """What the other process says of each case, and the folder it was opened from."""

    found: dict[str, Any]
    folders: dict[Case, Path]

    def answer(self, case: Case) -> dict[str, Tensor]:
        return load_file(f"{self.folders[case]}.out")


def opened_elsewhere(room: Path, wanted: Sequence[tuple[str, str, str, bool]]) -> dict[str, Any]:
    """What one process without axsearch says of exports: folder, auto class, inputs, has code."""
    (room / "wanted.json").write_text(json.dumps(wanted))
    done = processes.run("-c", LOAD, room / "wanted.json", check=True, for_exports=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    room = tmp_path_factory.mktemp("exports")
    folders, wanted = {}, []
    for number, case in enumerate(cases()):
        inputs = room / f"{case.model_type}.safetensors"
        if not inputs.exists():
            save_file(padded_batch(case.model_type), inputs)
        folder = room / f"export{number}"
        bundle = bundle_of(base_of(case), recipes(case.model_type)[case.kind])
        folders[case] = write_export(bundle, folder)
        assert bundle.auto_class == f"AutoModelFor{case.head}"
        wanted.append((str(folder), bundle.auto_class, str(inputs), not is_plain(case)))
    return Opened(opened_elsewhere(room, wanted), folders)


@pytest.mark.parametrize("case", cases(), ids=lambda case: "-".join(case))
class TestEveryArchitectureOpens:
    def test_with_the_same_answers(self, opened: Opened, case: Case) -> None:
        base = base_of(case)
        small = shrink(base, recipes(case.model_type)[case.kind])
        with torch.inference_mode():
            expected = small(**padded_batch(case.model_type))
        found = opened.answer(case)
        assert set(found) == {name for name in expected if isinstance(expected[name], Tensor)}
        for name, tensor in found.items():
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-5)
        said = opened.found[str(opened.folders[case])]
        assert said["parameters"] == sum(p.numel() for p in small.parameters())
        assert not any(said["info"].values()), said["info"]  # no tensor missing or left over

    def test_as_a_plain_checkpoint_where_only_whole_layers_are_gone(
        self, opened: Opened, case: Case
    ) -> None:
        folder, base = opened.folders[case], base_of(case)
        config = json.loads((folder / "config.json").read_text())
        said = opened.found[str(folder)]
        files = {path.name for path in folder.glob("*.py")}
        card = (folder / "README.md").read_text()
        assert f"{said['class']}" == (type(base).__name__ if is_plain(case) else "AxsearchModel")
        if is_plain(case):
            assert not files
            assert "auto_map" not in config
            assert config["model_type"] == case.model_type
            assert config["architectures"] == [type(base).__name__]
            assert "trust_remote_code=True" not in card
        else:
            assert files == {"modeling_axsearch.py"}
            assert config["model_type"] == f"axsearch_{case.model_type}"
            assert "trust_remote_code=True" in card
        assert Recipe.from_dict(config["axsearch"]["recipe"]) == recipes(case.model_type)[case.kind]


def test_the_compiled_kernels_that_were_measured_are_those_that_run(opened: Opened) -> None:
    assert opened.found["compiled"] is (native_library() is not None)


def test_without_leave_to_run_code_it_is_refused_rather_than_loaded_wrongly(opened: Opened) -> None:
    assert "trust_remote_code=True" in opened.found["refused"]


def test_a_class_that_is_not_of_transformers_is_refused() -> None:
    own = type("Own", (BertForSequenceClassification,), {})
    with pytest.raises(UsageError, match="class Own cannot be exported"):
        bundle_of(own(tiny_model("bert").config), Recipe.of({})).auto_class  # noqa: B018
