"""Wirings that training does not change."""

from __future__ import annotations

import torch

from ..errors import SelectionError
from .competition import top_k
from .registry import register
from .selector import MaskSelector, Selector, check_finite, check_k


class Frozen(MaskSelector):
    """k real edges chosen once and kept; only they receive gradients.

    Args:
        k: number of real edges, 0 to the number of candidates.
    """

    def extra_repr(self):
        return f"k={self.k}"


@register("random")
class RandomGraph(Frozen):
    """k edges drawn uniformly once and kept: the paper's baseline RG (section 3.3).

    Every candidate gets r_uv ~ U[0, 1), and the k largest are real for ever.

    Args:
        k: number of real edges, 0 to the number of candidates.
        coupled: take the initial |w_uv| for r_uv, as the paper's wording has it, so that all real
            edges start with large weights; by default the draw does not depend on the weights, as
            in the authors' code.
    """

    def __init__(self, k: int, coupled: bool = False):
        super().__init__(k)
        self.coupled = coupled

    def prepare(self, candidates, weight, generator):
        check_k(self.k, candidates.num, candidates.word)
        draw = candidates.magnitude(weight) if self.coupled else torch.rand(
            candidates.num, generator=generator, dtype=torch.float64)
        self.keep(top_k(draw, self.k))


@register("lottery-ticket", "fine-tune")
class Ticket(Frozen):
    """The k largest |w| of a trained network, kept for ever: lottery ticket and fine-tuning.

    At first the largest of the initial weights; :meth:`draw` takes those of other weights. A lottery
    ticket (one-shot; Frankle and Carbin, 2019) then starts again from the initial values, fine-tuning
    goes on from the trained ones ("Discovering Neural Wirings", section 3.3).

    Args:
        k: number of real edges, 0 to the number of candidates.
    """

    def prepare(self, candidates, weight, generator):
        check_k(self.k, candidates.num, candidates.word)
        self.keep(top_k(candidates.magnitude(weight), self.k))

    def draw(self, weight: torch.Tensor) -> None:
        """Keeps the k largest of these weights, (W,)."""
        if self.candidates is None:
            raise SelectionError("this Ticket serves no network yet: make the network first, then draw.")
        if weight.shape != (self.candidates.num_weights,):
            raise SelectionError(f"expected the weights of {self.candidates.num} {self.candidates.word}, got shape "
                                 f"{tuple(weight.shape)}.")
        check_finite(weight)
        self.keep(top_k(self.candidates.magnitude(weight.detach()), self.k))


@register("complete")
class Complete(Selector):
    """Every candidate edge is real: the dense network."""

    def __init__(self, k: None = None):
        super().__init__("masked")
        self.k = k

    @property
    def k(self) -> None:
        return None

    @k.setter
    def k(self, k: None) -> None:
        if k is not None:
            raise SelectionError(
                f"the selector 'complete' keeps every candidate edge and takes no k, got k={k!r}: "
                "leave k out (on the command line, --set k=none)."
            )

    def select(self, weight):
        return torch.ones(self.num_edges, dtype=torch.bool, device=weight.device)

    @property
    def num_real(self):
        return self.num_edges
