"""The self-contained modeling file that an export carries."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

from axsearch.architectures import Architecture

HEADER = '''"""A smaller {family} model, written by axsearch (Apache-2.0).

It needs torch and transformers only.

    from transformers import {auto_class}

    model = {auto_class}.from_pretrained(FOLDER, trust_remote_code=True)
"""
'''


def modeling_source(architecture: Architecture, auto_class: str) -> str:
    """The source of a family's modules with the axsearch modules that they import in front.

    These are the very modules that a search measures, as one file without axsearch.
    """
    imports: list[str] = []
    bodies: list[str] = []
    _collect(architecture.modeling_module, set(), imports, bodies)
    future = "from __future__ import annotations\n"
    header = HEADER.format(family=architecture.model_types[0], auto_class=auto_class)
    ordered = sorted(dict.fromkeys(imports))
    return "\n".join([header, future, *ordered, "", *bodies])


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
        elif isinstance(node, ast.Import | ast.ImportFrom):
            if getattr(node, "module", None) != "__future__":
                imports.append(ast.unparse(node))
            drop |= set(span)
    bodies.append("\n".join(line for i, line in enumerate(lines) if i not in drop).strip() + "\n")
