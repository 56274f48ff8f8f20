"""The self-contained modeling file that an export carries."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel

from axsearch.approximations import approximations
from axsearch.models.architectures import architecture_of

HEADER = '''"""A smaller {model_type} model, written by axsearch (Apache-2.0).

It needs torch and transformers only.

    from transformers import {auto_class}

    model = {auto_class}.from_pretrained(FOLDER, trust_remote_code=True)
"""
'''

CLASSES = '''class AxsearchConfig({config}):
    """{config} whose ``axsearch`` entry holds the recipe and which of the base's layers stay."""

    model_type = "axsearch_{model_type}"


class AxsearchModel({model}):
    """A {model} made smaller by the recipe that its config holds."""

    config_class = AxsearchConfig

    def __init__(self, config):
        super().__init__(config)
        ours = config.axsearch
        apply_choices(self, ours["recipe"]["sites"], ours["layers"], LAYOUT, HALVES)
'''


def modeling_source(base: type[PreTrainedModel], auto_class: str, types: Sequence[str]) -> str:
    """The source of a smaller model: the axsearch modules that it is made of, as one file.

    These are the very modules that a search measures: those of the family and of the approximations
    of these ``types`` of choices, after all modules of axsearch that they import. At the end are a
    config class and a model class that applies the recipe of its config to a new model of the class
    ``base``.
    """
    config = base.config_class
    assert config is not None
    family = architecture_of(config.model_type)
    imports: list[str] = [
        f"from {config.__module__} import {config.__name__}",
        f"from {base.__module__} import {base.__name__}",
    ]
    bodies: list[str] = []
    seen: set[str] = set()
    _collect(family.modeling_module, seen, imports, bodies)
    halves = {type: approximations()[type].modeling for type in types}
    for half in halves.values():
        _collect(half.__module__, seen, imports, bodies)
    entries = "".join(f'    "{type}": {half.__name__},\n' for type, half in halves.items())
    bodies.append(f"HALVES = {{\n{entries}}}\n")
    future = "from __future__ import annotations\n"
    header = HEADER.format(model_type=config.model_type, auto_class=auto_class)
    classes = CLASSES.format(
        config=config.__name__, model=base.__name__, model_type=config.model_type
    )
    ordered = sorted(dict.fromkeys(imports))
    return "\n".join([header, future, *ordered, "", *bodies, classes])


def _collect(module: str, seen: set[str], imports: list[str], bodies: list[str]) -> None:
    if module in seen:
        return
    seen.add(module)
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text()
    lines = source.splitlines()
    drop: set[int] = set()
    for index, node in enumerate(ast.parse(source).body):
        span = range(node.lineno - 1, node.end_lineno or node.lineno)
        if index == 0 and isinstance(node, ast.Expr):  # the docstring
            drop |= set(span)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("axsearch."):
            _collect(str(node.module), seen, imports, bodies)
            drop |= set(span)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            drop |= set(span)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            if getattr(node, "module", None) != "__future__":
                imports.append(ast.unparse(node))
            drop |= set(span)
    bodies.append("\n".join(line for i, line in enumerate(lines) if i not in drop).strip() + "\n")
