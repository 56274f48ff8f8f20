"""Links within the repository lead somewhere, and the picture is one that every page can show."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, PAGES, ROOT, prose

LINK = re.compile(r"\]\(([^)\s]+)\)")
SVG = "{http://www.w3.org/2000/svg}"


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in LINK.findall(prose(page)):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        there = (ROOT / page).parent / path if path else ROOT / page
        assert there.exists(), link
        assert not anchor or anchor in anchors(there), link


def test_every_page_of_docs_is_in_the_index() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    for page in DOCS.rglob("*.md"):
        name = page.relative_to(DOCS).as_posix()
        assert name == "index.md" or f"]({name})" in index, name


def test_the_picture_needs_nothing_from_elsewhere_and_has_a_title() -> None:
    picture = ElementTree.parse(DOCS / "concepts.svg").getroot()
    assert picture.find(f"{SVG}title") is not None
    assert picture.find(f"{SVG}desc") is not None
    text = (DOCS / "concepts.svg").read_text(encoding="utf-8")
    assert not re.search(r"<script|<image|href=|@import|url\(http", text)
    words = " ".join("".join(element.itertext()) for element in picture.iter(f"{SVG}text"))
    for term in ("base", "genome", "recipe", "smaller model", "measurement", "store", "front"):
        assert term in words.lower(), term
