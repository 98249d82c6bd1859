"""Finding a wiring among weights that are never trained."""

from __future__ import annotations

import torch
from torch import nn

from ..errors import InputError, SelectionError, lookup
from ..nodes.conv import DepthwiseConv
from ..nodes.norm import Norm
from .candidates import Candidates
from .registry import register
from .selector import Selector, check_finite
from .topk import RankingSelector

TORCH_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


class _Gate(torch.autograd.Function):
    """1{real} forward, the identity to the scores backward."""

    @staticmethod
    def forward(ctx, score, mask):
        return mask.to(score.dtype)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


@register("edge-popup")
class EdgePopup(RankingSelector):
    """The k candidates of largest |s|; the scores s are trained and the weights stay as they are.

        effective weight  w 1{|s| among the k largest};    dL/ds_uv = <Z_u, dL/dI_v> w_uv sgn(s_uv)

    ("What's Hidden in a Randomly Weighted Neural Network?", Ramanujan et al., 2020.) The scores are a
    parameter, ``selector.scores``: make the optimizer after the network. They start uniform in
    (-1/sqrt(n), 1/sqrt(n)) with n the candidates into the node. What else the network learns, such as kernels
    and norms, is trained as always; :func:`train_scores_only` freezes it, to find a wiring alone.

    Args:
        k: number of real edges, 0 to the number of candidates.
        weights: "as-they-are"; "signed-constant", sgn(w) sqrt(2 / n) with n the weights into the node; or
            "kaiming-normal", drawn anew from N(0, 2 / n).
        scaled: count of these n the share k / E only, so that the variance survives the selection.
        per, group, always, never: as for :class:`TopK`.
    """

    freezes_weight = True

    def __init__(self, k: int, weights: str = "as-they-are", scaled: bool = True, per: str = "graph",
                 group: int | None = None, always: torch.Tensor | None = None, never: torch.Tensor | None = None):
        super().__init__(k, "ste", per, group, always, never)
        lookup("weights", weights, dict.fromkeys(("as-they-are", "signed-constant", "kaiming-normal")))
        if not scaled and weights == "as-they-are":
            raise SelectionError("scaled is a setting of weights='signed-constant' and 'kaiming-normal', got "
                                 "weights='as-they-are'.")
        self.weights, self.scaled = weights, scaled

    def prepare(self, candidates: Candidates, weight: torch.Tensor, generator: torch.Generator) -> None:
        super().prepare(candidates, weight, generator)
        target = candidates.target()
        fan_in = torch.bincount(target)[target].to(weight.dtype) if len(target) else weight.new_zeros(0)
        draw = torch.rand(candidates.num, generator=generator, dtype=weight.dtype)
        self.scores = nn.Parameter((2 * draw - 1) * fan_in.rsqrt())
        if self.weights == "as-they-are" or not self.k:
            return
        # of a kernel, every entry is a weight into the node
        entries = candidates.num_weights / max(1, candidates.num)
        share = self.k / candidates.num if self.scaled else 1
        size = candidates.spread((2 / (fan_in * entries * share)).sqrt())
        if self.weights == "signed-constant":
            weight.copy_(size.where(weight >= 0, -size))
        else:
            weight.copy_(size * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))

    def select(self, weight: torch.Tensor) -> torch.Tensor:
        check_finite(self.scores)
        return self.groups().top(self.scores.detach().abs())

    def effective(self, weight: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        gate = self.candidates.spread(_Gate.apply(self.scores.abs(), real))
        return weight * gate.view(weight.shape)

    def extra_repr(self) -> str:
        return f"k={self.k}, weights={self.weights!r}{self.competition_repr()}"


@register("supermask")
class Supermask(RankingSelector):
    """Every candidate is real with a probability that is learned; the weights stay as they are.

        effective weight  m w,    m ~ Bernoulli(p),    p = sigmoid(s)
        dL/ds_uv = <Z_u, dL/dI_v> w_uv p (1 - p)

    straight through the sample, of which there is one per forward in training, drawn from torch's global
    generator ("Deconstructing Lottery Tickets", Zhou et al., 2019). In evaluation the k candidates of largest p
    are real; without k, p decides. The scores s are a parameter, ``selector.scores``, and start at 0; the paper's
    rate for them is 100 for plain SGD. :func:`train_scores_only` freezes what else is trained.

    Args:
        k: number of real edges in evaluation, 0 to the number of candidates; None where p decides.
        evaluation: without k: "round" (default), real where p >= 1/2; or "sample", m ~ Bernoulli(p) by draws that
            are made once and kept, so that evaluation repeats itself.
        weights: "as-they-are", or "signed-constant": sgn(w) times the standard deviation of the layer's weights.
        rescale: multiply the effective weights by the number of candidates of the layer over that of its real
            ones.
        per, group: of evaluation with k, as for :class:`TopK`.
    """

    freezes_weight = True
    k_is = "optional"
    draw: torch.Tensor

    def __init__(self, k: int | None = None, evaluation: str | None = None, weights: str = "as-they-are",
                 rescale: bool = False, per: str = "graph", group: int | None = None):
        super().__init__(k, "ste", per, group)
        if evaluation is not None:
            lookup("evaluation", evaluation, dict.fromkeys(("round", "sample")))
            if k is not None:
                raise SelectionError(f"evaluation={evaluation!r} lets probabilities decide how many edges are real: "
                                     f"leave it out, or k={k!r} (on the command line, --set k=none).")
        lookup("weights", weights, dict.fromkeys(("as-they-are", "signed-constant")))
        self.evaluation, self.weights, self.rescale = evaluation, weights, rescale

    def prepare(self, candidates: Candidates, weight: torch.Tensor, generator: torch.Generator) -> None:
        super().prepare(candidates, weight, generator)
        self.scores = nn.Parameter(torch.zeros(candidates.num, dtype=weight.dtype))
        if self.evaluation == "sample":
            self.register_buffer("draw", torch.rand(candidates.num, generator=generator, dtype=weight.dtype))
        if self.weights == "signed-constant":
            for part in weight.split(_sizes(candidates, "num_weights")):
                size = part.std(correction=0)
                if part.numel() and not size > 0:
                    raise SelectionError("weights='signed-constant' takes the standard deviation of a layer's weights, "
                                         "but all of them are equal: use weights='as-they-are'.")
                part.copy_(size.where(part >= 0, -size))

    def sample(self, weight: torch.Tensor) -> torch.Tensor:
        check_finite(self.scores)
        return torch.rand_like(self.scores) < self.scores.detach().sigmoid()

    def select(self, weight: torch.Tensor) -> torch.Tensor:
        check_finite(self.scores)
        scores = self.scores.detach()
        if self.k is not None:
            return self.groups().top(scores)
        return self.draw < scores.sigmoid() if self.evaluation == "sample" else scores >= 0

    @property
    def num_real(self) -> int | None:
        if self.k is not None:
            return super().num_real
        return None if self.candidates is None else int(self.select(self.scores).sum())

    def effective(self, weight: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        gate = _Gate.apply(self.scores.sigmoid(), real)
        if self.rescale:
            gate = gate * torch.cat([(len(part) / part.sum().clamp(min=1)).to(gate.dtype).expand(len(part))
                                     for part in real.split(_sizes(self.candidates, "num"))])
        return weight * self.candidates.spread(gate).view(weight.shape)

    def extra_repr(self) -> str:
        real = f"evaluation={self.evaluation or 'round'!r}" if self.k is None else f"k={self.k}"
        return f"{real}, weights={self.weights!r}" + (", rescale" if self.rescale else "") + self.competition_repr()


def _sizes(candidates: Candidates, what: str) -> list[int]:
    """The number of candidates, or of weights, of each layer."""
    return [getattr(part, what) for part in candidates.parts]


@torch.no_grad()
def train_scores_only(module: nn.Module) -> None:
    """Freezes everything but the scores of ``edge-popup`` and ``supermask``, to find a wiring alone.

    Norms, of nodes and of layers, become norms without scale and shift; kernels of nodes become signed constants
    sgn(kernel) sqrt(2 / n) of their n entries, for 3x3 +-sqrt(2 / 9) ("What's Hidden in a Randomly Weighted Neural
    Network?", section 4). Everything else, such as biases and layers that are not sparse, stays as it is now.
    Give it a network of a model to train stem and head as always. Make the optimizer afterwards.

    Args:
        module: with such selectors inside.

    Raises:
        SelectionError: if there are none.

    >>> import neuralgraph as ng
    >>> function = ng.NodeFunction("norm activation conv")
    >>> net = ng.StaticNeuralGraph(ng.wirings.blocks([3, 8, 2], function), ng.selectors.EdgePopup(k=20))
    >>> train_scores_only(net)
    >>> [name for name, parameter in net.named_parameters() if parameter.requires_grad]
    ['selector.scores']
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"expected a torch.nn.Module, got {type(module).__name__}.")
    scores = {parameter for part in module.modules() if isinstance(part, Selector) and part.freezes_weight
              for parameter in part.parameters()}
    if not scores:
        raise SelectionError("the module has no scores to train: there is no edge-popup and no supermask in it.")
    for part in module.modules():
        if isinstance(part, (Norm, *TORCH_NORMS)) and part.weight is not None:
            part.weight.fill_(1)
            if part.bias is not None:
                part.bias.zero_()
        elif isinstance(part, DepthwiseConv):
            size = part.weight.new_tensor(2 / part.weight[0].numel()).sqrt() if len(part.weight) else 0
            part.weight.copy_(torch.where(part.weight >= 0, size, -size))
    for parameter in module.parameters():
        parameter.requires_grad_(parameter in scores)
