"""A smaller vocabulary: rows of the embeddings are cut, and the config counts fewer tokens."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from axsearch.approximations.modeling import Modeling, Target, kept_units, replace_module

if TYPE_CHECKING:
    from axsearch.approximations.site import Site


class VocabularyModeling(Modeling):
    """Keeps the rows of the tokens that stay, in the order of their ids."""

    @classmethod
    def cut(cls, site: Site, choice: Mapping[str, Any], state: MutableMapping[str, Tensor]) -> None:
        """Slice the table of embeddings, (tokens, width)."""
        name = f"{site.modules[0]}.weight"
        state[name] = state[name][kept_units(choice)]

    @classmethod
    def install(cls, target: Target, choice: Mapping[str, Any]) -> None:
        """Make the table smaller, and let the config have the new ids of the special tokens.

        An export's config has both already.
        """
        kept, (name,) = kept_units(choice), target.block.inputs
        table: Any = target.module.get_submodule(name)
        if table.num_embeddings == len(kept):
            return
        places = {token: place for place, token in enumerate(kept)}
        padding = table.padding_idx
        smaller = nn.Embedding(
            len(kept), table.embedding_dim, padding_idx=None if padding is None else places[padding]
        )
        replace_module(target.module, name, smaller)
        config: Any = target.model.config
        config.vocab_size = len(kept)
        for entry, token in list(config.to_dict().items()):
            if entry.endswith("_token_id") and isinstance(token, int):
                setattr(config, entry, places.get(token))
