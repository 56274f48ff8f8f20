"""Top-k FFN: each token uses its k strongest neurons only."""

from __future__ import annotations

from collections.abc import Mapping

from axsearch.approximations.base import TopK
from axsearch.approximations.choices import Choice, Kept, Level, Setting
from axsearch.approximations.site import Site


class TopKFfn(TopK):
    """Each token keeps its k largest pre-activations (arXiv 2106.06899, section 2).

    The FFN is seen as a memory: the first projection's rows are keys, the second's columns values.
    Both products stay dense, so it saves memory in training but no time, and without training it
    costs accuracy where the activation is not ReLU; it is tried only on request.
    """

    name = "ffn_topk"
    kernel = True
    kinds = ("ffn",)
    summary = "FFN neurons each token uses"
    unit = "neurons a token"
    short = "n"
    title = "top-k neurons"
    axis = "neurons a token uses"
    modes = ("largest",)
    mode = "largest"

    def levels(self, site: Site, part: int = 0) -> tuple[Level, ...]:
        """All neurons, then halves of them down to a sixteenth."""
        neurons = site.count
        return (None, *(k for k in (neurons // share for share in (2, 4, 8, 16)) if k))

    def misfit(self, site: Site, choice: Choice) -> str | None:
        """A k that leaves out no neuron does not fit either."""
        if isinstance(choice, Setting) and choice.value >= site.count:
            return f"keeps all {site.count} neurons; leave it out"
        return super().misfit(site, choice)

    def idle(self, choice: Choice, others: Mapping[str, Choice]) -> bool:
        """True where no more neurons are kept than a token may use."""
        kept = [len(other.kept) for other in others.values() if isinstance(other, Kept)]
        return isinstance(choice, Setting) and bool(kept) and choice.value >= min(kept)
