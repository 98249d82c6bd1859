"""Wirings that training does not change."""

from __future__ import annotations

from typing import ClassVar

import torch

from ..errors import SelectionError, lookup
from .candidates import Candidates
from .competition import Competing
from .registry import register
from .selector import MaskSelector, Selector, check_finite


class Uncounted(Selector):
    """A selector that takes no k: ``because`` says why."""

    k_is = "found"
    because: ClassVar[str]

    @property
    def k(self) -> None:
        return None

    @k.setter
    def k(self, k: None) -> None:
        if k is not None:
            raise SelectionError(f"{type(self).__name__} {self.because} and takes no k, got k={k!r}: leave k out (on "
                                 "the command line, --set k=none).")


class Frozen(Competing, MaskSelector):
    """k real edges chosen once and kept; only they receive gradients.

    Args:
        k: number of real edges, 0 to the number of candidates.
        per, group: what candidates compete within, as for :class:`TopK`.
    """

    def __init__(self, k: int, per: str = "graph", group: int | None = None):
        super().__init__(k)
        self.compete_within(per, group)

    def extra_repr(self) -> str:
        return f"k={self.k}{self.competition_repr()}"


@register("random")
class RandomGraph(Frozen):
    """k edges drawn uniformly once and kept: the paper's baseline RG (section 3.3).

    Every candidate gets r_uv ~ U[0, 1), and the k largest are real for ever.

    Args:
        k: number of real edges, 0 to the number of candidates.
        coupled: take the initial |w_uv| for r_uv, as the paper's wording has it, so that all real
            edges start with large weights; by default the draw does not depend on the weights, as
            in the authors' code.
        per, group: what candidates compete within, as for :class:`TopK`.
    """

    def __init__(self, k: int, coupled: bool = False, per: str = "graph", group: int | None = None):
        super().__init__(k, per, group)
        self.coupled = coupled

    def prepare(self, candidates: Candidates, weight: torch.Tensor, generator: torch.Generator) -> None:
        draw = candidates.magnitude(weight) if self.coupled else torch.rand(
            candidates.num, generator=generator, dtype=torch.float64)
        self.keep(self.groups().top(draw))


def _same_sign(final, initial):
    return final.where(final.sign() == initial.sign(), final.new_zeros(()))


# what makes a candidate worth keeping: of its trained and its initial weights, and of the function that
# measures weights (W,) as scores (n,)
CRITERIA = {
    "large-final": lambda final, initial, size: size(final),
    "small-final": lambda final, initial, size: -size(final),
    "large-init": lambda final, initial, size: size(initial),
    "small-init": lambda final, initial, size: -size(initial),
    "large-final-same-sign": lambda final, initial, size: size(_same_sign(final, initial)),
    "magnitude-increase": lambda final, initial, size: size(final) - size(initial),
    "movement": lambda final, initial, size: size(final - initial),
    "random": None,
}


@register("lottery-ticket", "fine-tune")
class Ticket(Frozen):
    """The k best candidates of a trained network, kept for ever: lottery ticket and fine-tuning.

    At first those of the initial weights; :meth:`draw` takes others. A lottery ticket (one-shot; Frankle and
    Carbin, 2019) then starts again from the initial values, fine-tuning goes on from the trained ones
    ("Discovering Neural Wirings", section 3.3). Best are by default the largest |w|; what else has been tried is
    due to "Deconstructing Lottery Tickets" (Zhou et al., 2019), whose networks stay at their initial weights.

    Args:
        k: number of real edges, 0 to the number of candidates.
        criterion: what is kept, w_f being the trained weights and w_i the initial ones: "large-final" |w_f|;
            "large-final-same-sign" |w_f| where the sign is that of w_i, else 0; "magnitude-increase"
            |w_f| - |w_i|; "movement" |w_f - w_i|; "large-init" |w_i|; the smallest, "small-final" and
            "small-init"; "random". Ties as everywhere (the paper draws them).
        per, group: what candidates compete within, as for :class:`TopK`.
    """

    def __init__(self, k: int, criterion: str = "large-final", per: str = "graph", group: int | None = None):
        super().__init__(k, per, group)
        lookup("criterion", criterion, CRITERIA)
        self.criterion = criterion

    @property
    def needs_initial(self) -> bool:
        """Whether :meth:`draw` wants the initial weights too."""
        return self.criterion not in ("large-final", "small-final", "random")

    def prepare(self, candidates: Candidates, weight: torch.Tensor, generator: torch.Generator) -> None:
        if self.criterion == "random":
            self.keep(self.groups().top(torch.rand(candidates.num, generator=generator, dtype=torch.float64)))
        else:
            self._choose(weight, weight)

    def draw(self, weight: torch.Tensor, initial: torch.Tensor | None = None) -> None:
        """Keeps the k best of these weights, (W,).

        Args:
            weight: w_f.
            initial: w_i, (W,), for criteria that compare with it.
        """
        if self.candidates is None:
            raise SelectionError("this Ticket serves no network yet: make the network first, then draw.")
        if self.needs_initial and initial is None:
            raise SelectionError(f"the criterion {self.criterion!r} needs the initial weights too: "
                                 "draw(weight, initial).")
        given = [weight.detach()] if initial is None else [weight.detach(), initial.detach()]
        for values in given:
            if values.shape != (self.candidates.num_weights,):
                raise SelectionError(f"expected the weights of {self.candidates.num} {self.candidates.word}, got "
                                     f"shape {tuple(values.shape)}.")
            check_finite(values)
        if self.criterion != "random":
            self._choose(given[0], given[-1])

    def _choose(self, final, initial):
        criterion = CRITERIA[self.criterion]
        assert criterion is not None  # random is drawn
        score = criterion(final, initial.to(final), self.candidates.magnitude)
        self.keep(self.groups().top(score))

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.criterion == "large-final" else f", criterion={self.criterion!r}")


@register("complete")
class Complete(Uncounted):
    """Every candidate edge is real: the dense network."""

    because = "keeps every candidate edge"

    def __init__(self, k: None = None):
        super().__init__("masked")
        self.k = k

    def select(self, weight: torch.Tensor) -> torch.Tensor:
        return torch.ones(self.candidates.num, dtype=torch.bool, device=weight.device)

    @property
    def num_real(self) -> int | None:
        return self.num_edges
