"""The model card of an export."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, StrictUndefined

from axsearch.export.base import Bundle


def model_card(bundle: Bundle, auto_class: str, task: str) -> str:
    """Markdown with front matter: what was cut, what was measured, how to load it."""
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = environment.from_string(Path(__file__).with_name("card.md.jinja").read_text())
    return template.render(
        bundle=bundle,
        m=bundle.measurement,
        base=bundle.baseline,
        auto_class=auto_class,
        task=task,
        approximations=list(next(iter(bundle.measurement.choices.values()))),
    )
