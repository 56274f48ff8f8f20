"""Every model family there is keeps what families promise; a new file is tested, too."""

from __future__ import annotations

import pytest

from axsearch.approximations.site import SiteId
from axsearch.errors import UsageError
from axsearch.models.architectures import architecture_of, architectures
from axsearch.testing.architectures import ArchitectureContract
from axsearch.testing.models import every_site


@pytest.mark.parametrize("model_type", architectures())
class TestEveryArchitecture(ArchitectureContract):
    """Those of axsearch."""


def test_unsupported_family_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError) as refused:
        architecture_of("bart")
    assert "'bart'" in str(refused.value)
    for model_type in architectures():
        assert model_type in str(refused.value)


def test_every_family_that_users_bring_is_there() -> None:
    assert set(architectures()) >= {
        "albert", "bert", "camembert", "deberta-v2", "distilbert", "electra", "gpt2", "modernbert",
        "mpnet", "roberta", "vit", "xlm-roberta",
    }  # fmt: skip


def test_site_ids_are_those_of_recipes() -> None:
    assert every_site("bert")[3].id == SiteId(1, "ffn")
