"""The files of a family that axsearch lacks, with sites of kinds that no other family has.

ERNIE's layers are BERT's; beside attention and FFN their last norm is a site, which holds no units,
and so are the position embeddings, which lie in no layer. Two toy approximations act on them.
"""

from __future__ import annotations

FAMILY = {
    "ernie.py": '''"""ERNIE."""

from __future__ import annotations

from axsearch.models.architectures import ernie_layers
from axsearch.models.architectures.base import Architecture


class Ernie(Architecture):
    """ERNIE: BERT's layers, with a norm and the positions as sites."""

    model_types = ("ernie",)
    modeling_module = ernie_layers.__name__
    layout = ernie_layers.LAYOUT
''',
    "ernie_layers.py": '''"""The layers of ERNIE."""

from __future__ import annotations

from axsearch.approximations.modeling import Block, Layout
from axsearch.models.architectures.modeling.blocks import leave_attention_norm, leave_output_norm

LAYOUT = Layout(
    "encoder.layer",
    {
        "attention": Block(
            ("attention.self.query", "attention.self.key", "attention.self.value"),
            "attention.output.dense",
            leave_attention_norm,
            units="num_attention_heads",
            core="attention.self",
            counts=("num_attention_heads",),
            widths=("all_head_size",),
        ),
        "ffn": Block(
            ("intermediate.dense",),
            "output.dense",
            leave_output_norm,
            activation="intermediate.intermediate_act_fn",
        ),
        "norm": Block(("output.LayerNorm",)),
    },
    outside={"positions": Block(("embeddings.position_embeddings",))},
)
''',
}

NORM_CHOICE = '''"""Norms without bias."""

from __future__ import annotations

from collections.abc import Sequence

from axsearch.approximations.base import Approximation
from axsearch.approximations.choices import Choice, Level
from axsearch.approximations.site import Site


class NoBias(Choice):
    """The norm's bias is dropped."""

    @property
    def level(self) -> int:
        """There is one."""
        return 0


class NormBias(Approximation):
    """Drops the bias of a norm."""

    name = "norm_bias"
    kinds = ("norm",)
    summary = "bias of the norm"
    choice_type = NoBias
    unit = "bias"
    short = "b"
    title = "norm bias"

    def levels(self, site: Site, part: int = 0) -> tuple[Level, ...]:
        """With and without."""
        return (1, 0)

    def choice(
        self, site: Site, level: Level, order: Sequence[int], part: int = 0
    ) -> Choice | None:
        """Without at level 0."""
        return None if level else NoBias()

    def value(self, site: Site, choice: Choice | None) -> Level:
        """1 with the bias."""
        return 1 if choice is None else 0

    def misfit(self, site: Site, choice: Choice) -> str | None:
        """It fits every norm."""
        return None if isinstance(choice, NoBias) else "takes the bias alone"
'''

NORM_MODELING = '''"""Drops the bias of a norm."""

from __future__ import annotations

from torch import nn

from axsearch.approximations.modeling import Modeling, replace_module


class NormBiasModeling(Modeling):
    """Drops the bias of a norm."""

    @classmethod
    def cut(cls, site, choice, state):
        state.pop(f"{site.modules[0]}.bias")

    @classmethod
    def install(cls, place, choice):
        name = place.block.inputs[0]
        old = place.module.get_submodule(name)
        new = nn.LayerNorm(old.normalized_shape, eps=old.eps, bias=False)
        replace_module(place.module, name, new)
'''

ROWS_CHOICE = '''"""Fewer position embeddings."""

from __future__ import annotations

from collections.abc import Sequence

from axsearch.approximations.base import Approximation
from axsearch.approximations.choices import Choice, Level
from axsearch.approximations.site import Site


class Rows(Choice):
    """The first positions stay."""

    rows: int

    @property
    def level(self) -> int:
        """How many stay."""
        return self.rows


class PositionRows(Approximation):
    """Keeps the first position embeddings."""

    name = "position_rows"
    kinds = ("positions",)
    summary = "positions kept"
    choice_type = Rows
    unit = "positions"
    short = "p"
    title = "positions"

    def levels(self, site: Site, part: int = 0) -> tuple[Level, ...]:
        """All, then 48, or as many as the longest input needs."""
        return (None, max(48, site.length))

    def choice(
        self, site: Site, level: Level, order: Sequence[int], part: int = 0
    ) -> Choice | None:
        """The first rows."""
        return None if level is None else Rows(rows=level)

    def misfit(self, site: Site, choice: Choice) -> str | None:
        """As many as the longest input needs."""
        fits = isinstance(choice, Rows) and choice.rows >= site.length
        return None if fits else "has too few positions"
'''

ROWS_MODELING = '''"""Keeps the first position embeddings."""

from __future__ import annotations

from torch import nn

from axsearch.approximations.modeling import Modeling, replace_module


class PositionRowsModeling(Modeling):
    """Keeps the first position embeddings."""

    @classmethod
    def cut(cls, site, choice, state):
        name = f"{site.modules[0]}.weight"
        state[name] = state[name][: choice["rows"]].contiguous()

    @classmethod
    def install(cls, place, choice):
        name = place.block.inputs[0]
        old = place.module.get_submodule(name)
        replace_module(place.module, name, nn.Embedding(choice["rows"], old.embedding_dim))
'''

APPROXIMATIONS = {
    "norm_bias/__init__.py": '"""A toy."""\n',
    "norm_bias/choice.py": NORM_CHOICE,
    "norm_bias/modeling.py": NORM_MODELING,
    "position_rows/__init__.py": '"""A toy."""\n',
    "position_rows/choice.py": ROWS_CHOICE,
    "position_rows/modeling.py": ROWS_MODELING,
}
