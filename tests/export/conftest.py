"""One export that several modules look at: the tracer takes seconds for each."""

from __future__ import annotations

from pathlib import Path

import pytest

from axsearch.approximations.choices import Choice, Kept, Setting
from axsearch.approximations.site import SiteId
from axsearch.export import Bundle
from axsearch.space.recipe import Recipe
from axsearch.testing.exports import bundle_of, write_export
from axsearch.testing.text import tiny_bert


@pytest.fixture(scope="session")
def every_choice() -> Bundle:
    """Four layers with heads, neurons, one attention and one FFN removed, and top-k in all three
    modes; only the second attends to all keys.
    """
    heads = Kept(of=4, kept=(0, 1, 3))
    sites: dict[SiteId, dict[str, Choice]] = {
        SiteId(0, "attention"): {"topk": Setting(value=3, mode="hard"), "heads": heads},
        SiteId(0, "ffn"): {"ffn": Kept(of=64, kept=(5, 6, 7))},
        SiteId(1, "ffn"): {"ffn_topk": Setting(value=5, mode="largest")},
        SiteId(2, "attention"): {"topk": Setting(value=20, mode="renormalised")},
        SiteId(2, "ffn"): {"ffn": Kept(of=64, kept=())},
        SiteId(3, "attention"): {"heads": Kept(of=4, kept=())},
        SiteId(3, "ffn"): {"ffn": Kept(of=64, kept=(1, 2))},
    }
    return bundle_of(tiny_bert(layers=4), Recipe.of(sites))


@pytest.fixture(scope="session")
def every_choice_onnx(every_choice: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its export."""
    return write_export(every_choice, tmp_path_factory.mktemp("every_choice") / "small", "onnx")
