"""Top-k attention: the attention implementation of transformers that attends to k keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from axsearch.approximations.modeling import Modeling, Target
from axsearch.approximations.topk.attention_interface import ATTENTION_NAME


class TopKAttentionModeling(Modeling):
    """Lets a layer attend through :mod:`axsearch.approximations.topk.attention_interface`."""

    @classmethod
    def install(cls, target: Target, choice: Mapping[str, Any]) -> None:
        """Set k on the attention module; transformers then calls the function with it."""
        assert target.block.core is not None
        core: Any = target.module.get_submodule(target.block.core)
        core.topk, core.topk_mode = choice["value"], choice["mode"]
        if target.model._supports_sdpa:  # else the family's own module reads topk
            target.model.config._attn_implementation = ATTENTION_NAME
