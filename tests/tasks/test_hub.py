"""Names that are neither a folder nor on the hub."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

from axsearch.errors import UsageError
from axsearch.tasks.hub import SECONDS, check_on_hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Let the hub's client raise something, or nothing; returns what it was asked."""
    monkeypatch.setattr(constants, "is_offline_mode", lambda: False)
    monkeypatch.chdir(tmp_path)
    asked: list[tuple[str, str]] = []

    def answers(error: Exception | None) -> list[tuple[str, str]]:
        def repo_info(_: object, name: str, *, repo_type: str, timeout: float) -> None:
            assert timeout == SECONDS
            asked.append((name, repo_type))
            if error is not None:
                raise error

        monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", repo_info)
        return asked

    return answers


def refused(name: str, kind: Any = "model") -> str:
    with pytest.raises(UsageError) as caught:
        check_on_hub(name, kind)
    return str(caught.value)


def response(status: int) -> Any:
    return SimpleNamespace(status_code=status, headers={}, request=None)


def test_a_name_that_the_hub_has(hub: Any) -> None:
    asked = hub(None)
    check_on_hub("org/model", "model")
    check_on_hub("org/data", "dataset")
    assert asked == [("org/model", "model"), ("org/data", "dataset")]


def test_a_name_that_nobody_has(hub: Any, tmp_path: Path) -> None:
    hub(RepositoryNotFoundError("404", response=response(404)))
    assert refused("models/base") == "models/base is neither a folder here nor a model on the hub."
    for name in ("bert", "base-2"):
        (tmp_path / "models" / name).mkdir(parents=True)
    assert refused("models/base") == (
        "models/base is neither a folder here nor a model on the hub (models holds base-2, bert)."
    )
    assert "nor a dataset on the hub" in refused("sets/reviews", "dataset")
    (tmp_path / "reviews").mkdir()
    assert "(here holds reviews)" in refused("review", "dataset")


def test_a_name_that_cannot_be_on_the_hub(hub: Any) -> None:
    hub(HFValidationError("no blanks"))
    assert "is neither a folder here nor a model on the hub" in refused("my model")


def test_a_hub_that_does_not_answer(hub: Any) -> None:
    hub(ConnectionError("Name or service not known"))
    assert refused("org/model") == (
        "org/model is no folder here, and the hub cannot be asked for it (Name or service not "
        "known)."
    )


def test_a_model_that_is_gated_is_left_to_the_client(hub: Any) -> None:
    hub(GatedRepoError("403", response=response(403)))
    check_on_hub("org/secret", "model")


def test_what_was_downloaded_needs_no_hub(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = hub(ConnectionError("away"))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: "/there")
    check_on_hub("org/model", "model")
    assert not asked


def test_offline_it_is_not_asked(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = hub(ConnectionError("away"))
    monkeypatch.setattr(constants, "is_offline_mode", lambda: True)
    check_on_hub("org/model", "model")
    assert not asked
