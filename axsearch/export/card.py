"""The model card of an export."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, StrictUndefined

from axsearch.approximations import in_cell, recorded
from axsearch.export.base import Bundle


def model_card(bundle: Bundle, format: str, *, remote: bool = False) -> str:
    """Markdown with front matter: the cuts, the measurements and how to load the model.

    ``remote`` says that opening it needs the modeling file of its folder.
    """
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    choices = bundle.measurement.choices.values()
    used = [recorded(site.kind)[name] for site, name, _ in bundle.plan.after.recipe.choices()]
    template = environment.from_string(Path(__file__).with_name("card.md.jinja").read_text())
    return template.render(
        bundle=bundle,
        origin=bundle.base.family.origin(bundle.base.model),
        m=bundle.measurement,
        base=bundle.baseline,
        auto_class=bundle.auto_class,
        format=format,
        remote=remote,
        inputs=list(bundle.probe_inputs),
        in_cell=in_cell,
        approximations=list(dict.fromkeys(name for kept in choices for name in kept)),
        notes=list(dict.fromkeys(a.hf_note for a in used if a.hf_note)),
    )
