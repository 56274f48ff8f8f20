"""Two small studies with all that the dashboard and the report show, and a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from axsearch import Study, search
from axsearch.reporting.dashboard.annotating import annotate
from axsearch.running.holdout import evaluate_front
from axsearch.testing.latency import MEASURE, table_by_units
from axsearch.testing.processes import Process

from .page import Page

PASSWORD = "correct horse"


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    page = Page(tmp_path_factory.mktemp("profile"))
    yield page
    page.driver.quit()


@pytest.fixture
def page(browser: Page) -> Iterator[Page]:
    """The browser; errors in the console that a test does not ask for itself make it fail."""
    browser.errors(), browser.requests()
    yield browser
    assert browser.errors() == []


@pytest.fixture(scope="session")
def storage(
    browser: Page, base_dir: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The URL of a database with the study `tiny`, with a limit, and the smaller `other`."""
    url = f"sqlite:///{tmp_path_factory.mktemp('study') / 'studies.db'}"
    model, data = str(base_dir), str(data_dir)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MEASURE, table_by_units)  # or trials would differ each run
        # Not staged, or trials over the limit may be stopped before they have an accuracy.
        given = {
            "storage": url, "batch_size": 4, "threads": 1, "staged": False,
            "compensation": "least_squares",
        }  # fmt: skip
        search(model, data, study="other", trials=3, **given)
        study = search(model, data, study="tiny", trials=20, max_drop=0.05, **given)
    evaluate_front(study)
    annotate(study)
    return url


@pytest.fixture(scope="session")
def study(storage: str) -> Study:
    return Study.open(storage, "tiny")


@contextmanager
def served(storage: str, *options: str) -> Iterator[str]:
    """The address of the dashboard, as its command serves it."""
    command = ["-m", "axsearch", "dashboard", "--storage", storage, "--port", "0"]
    with Process(*command, *options) as server:
        try:
            address = re.search(r"http://127.0.0.1:\d+", server.stderr.readline())
            assert address is not None
            yield address[0]
        finally:
            server.kill()


@pytest.fixture(scope="session")
def dashboard(storage: str) -> Iterator[str]:
    with served(storage) as address:
        yield address


@pytest.fixture(scope="session")
def locked(storage: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a dashboard that asks for a password."""
    file = tmp_path_factory.mktemp("secret") / "password"
    file.write_text(PASSWORD)
    file.chmod(0o600)
    with served(storage, "--password-file", str(file)) as address:
        yield address
