"""Search the approximations of a fine-tuned transformer; export a smaller, faster model.

The names below are the public ones. They are imported when first used, so that importing
axsearch imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from axsearch.comparison import selection_bias, ties
    from axsearch.dashboard import serve
    from axsearch.errors import AxsearchError, UsageError
    from axsearch.evaluation.evaluator import Evaluator
    from axsearch.explanation import explain_trial
    from axsearch.export import export_model, verify_export
    from axsearch.finetuning import finetune
    from axsearch.gallery import compare_fronts, study_figures
    from axsearch.holdout import holdout_speed
    from axsearch.recipe import Recipe
    from axsearch.remeasuring import remeasure
    from axsearch.report import write_report
    from axsearch.run import search
    from axsearch.study import Study
    from axsearch.surgery import shrink
    from axsearch.task import Task

__version__ = "0.1.0"

_HOME = {
    "AxsearchError": "errors",
    "Evaluator": "evaluation.evaluator",
    "Recipe": "recipe",
    "Study": "study",
    "Task": "task",
    "UsageError": "errors",
    "compare_fronts": "gallery",
    "explain_trial": "explanation",
    "export_model": "export",
    "finetune": "finetuning",
    "holdout_speed": "holdout",
    "remeasure": "remeasuring",
    "search": "run",
    "selection_bias": "comparison",
    "serve": "dashboard",
    "shrink": "surgery",
    "study_figures": "gallery",
    "ties": "comparison",
    "verify_export": "export",
    "write_report": "report",
}

__all__ = [
    "AxsearchError",
    "Evaluator",
    "Recipe",
    "Study",
    "Task",
    "UsageError",
    "compare_fronts",
    "explain_trial",
    "export_model",
    "finetune",
    "holdout_speed",
    "remeasure",
    "search",
    "selection_bias",
    "serve",
    "shrink",
    "study_figures",
    "ties",
    "verify_export",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'axsearch' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"axsearch.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
