"""Which part of a network decides about one class."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from .._html import beside, facts, table
from ..errors import InputError, lookup, whole
from ..networks import NeuralGraph
from ..selectors import Frozen
from ..wiring import Wiring
from ..wiring.drawing import picture

BATCH = 256  # images evaluated at once


@dataclass(frozen=True, eq=False)
class Attribution:
    """How much the parts of one neural graph add to an objective.

    Args:
        edges: of every candidate edge, (E,); 0 where not real.
        nodes: of what every node sends, (V,), the sum over its out-edges; of a node without any, of what it receives.
    """

    edges: torch.Tensor
    nodes: torch.Tensor

    def _repr_html_(self) -> str:
        return beside(*(table((name, "adds"), [(str(number), float(values[number])) for number in _largest(values)],
                              f"{len(values):,} {name}s, those that add most")
                        for name, values in (("edge", self.edges), ("node", self.nodes))))


@dataclass(frozen=True, eq=False)
class Circuit:
    """The part of a model that keeps one class apart from all others.

    Args:
        label: the class.
        edges: of every neural graph of the model, which candidate edges belong to it, bool (E,).
        wirings: the same as wirings, with the weights that these edges have in the model.
        accuracy: of the circuit, as :func:`circuit` defines it, 0 to 1.
        whole: of the whole model.
        num_real: how many edges the whole model has.
    """

    label: int
    edges: tuple[torch.Tensor, ...]
    wirings: tuple[Wiring, ...]
    accuracy: float
    whole: float
    num_real: int

    @property
    def wiring(self) -> Wiring:
        """The wiring of a model with one neural graph."""
        if len(self.wirings) != 1:
            raise InputError(f"the model has {len(self.wirings)} neural graphs: use circuit.wirings.")
        return self.wirings[0]

    @property
    def num_edges(self) -> int:
        return sum(int(mask.sum()) for mask in self.edges)

    def overlap(self, other: Circuit) -> float:
        """The share of edges of either circuit that both have (Jaccard's index); 1 for two empty ones."""
        if [len(mask) for mask in self.edges] != [len(mask) for mask in other.edges]:
            raise InputError("the circuits are not of the same model: their graphs have other numbers of edges.")
        both, either = (sum(int(operation(a, b).sum()) for a, b in zip(self.edges, other.edges))
                        for operation in (torch.logical_and, torch.logical_or))
        return both / either if either else 1.0

    def __str__(self) -> str:
        return (f"class {self.label}: {self.num_edges} of {self.num_real} edges keep {100 * self.accuracy:.1f} % "
                f"of {100 * self.whole:.1f} % balanced accuracy")

    def _repr_html_(self) -> str:
        return beside(facts({"class": self.label, "edges": self.num_edges, "of": self.num_real,
                             "balanced accuracy (%)": 100 * self.accuracy, "of the whole model (%)": 100 * self.whole},
                            "circuit"), *map(picture, self.wirings))


def _largest(values: torch.Tensor) -> list[int]:
    """The numbers of the ten largest magnitudes, the largest first."""
    return values.abs().argsort(descending=True, stable=True)[:10].tolist()


def attribution(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, label: int | None = None,
                by: str = "gradient") -> tuple[Attribution, ...]:
    """How much each edge and node of a classifier adds to telling a class from all others, or all classes apart.

    With f the mean of log p(label | x) over images of that class plus the mean of log(1 - p(label | x)) over all
    others (without ``label``: the mean of log p(y | x)), edge (u, v) has

        "gradient":  w_uv df/dw_uv, to first order what is lost without the edge
        "ablation":  f - f(w_uv = 0), in one evaluation for every real edge

    and by "gradient" a node gradient times activation, summed over pixels, steps and images; by "ablation" what is
    lost without all edges out of it (into it, where there are none out of it).

    Args:
        model: a classifier with neural graphs inside; its evaluation mode is looked at, and nothing is changed.
        images: as the model takes them, (N, ...).
        labels: int64 (N,).
        label: the class.
        by: "gradient" or "ablation".

    Returns:
        One for every neural graph, in the order of ``model.modules()``.

    >>> import neuralgraph as ng
    >>> model = ng.models.create("tiny-static", in_channels=1, image_size=8, num_classes=3, k=300)
    >>> images, labels = torch.randn(6, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    >>> found, = attribution(model, images, labels, label=1)
    >>> found.edges.shape, found.nodes.shape
    (torch.Size([325760]), torch.Size([900]))
    """
    lookup("attribution", by, dict.fromkeys(("gradient", "ablation")))
    _check(images, labels, label)
    part = _Part(model, images, labels, label)
    return part.by_gradient() if by == "gradient" else part.by_ablation()


def circuit(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, *, label: int, keep: float = 0.95,
            one_by_one: int = 1000) -> Circuit:
    """A smallest part of a classifier's wiring that still tells one class from all others.

    Edges of the least attribution are left out, half of them at first and ever fewer, as long as the balanced accuracy

        (share of images of the class that are called so + share of others that are not) / 2

    stays at least 1/2 + ``keep`` times what the whole model has above 1/2, that of a constant answer; attributions are
    taken anew each time. In the end edges are left out one by one, until none can be spared. (A smallest one that was
    found so: smaller ones may exist.)

    Args:
        model, images, labels, label: as for :func:`attribution`.
        keep: above 0 and at most 1.
        one_by_one: up to how many edges are tried singly.

    Raises:
        InputError: for a class without images, or that the whole model does not tell from others.
    """
    _check(images, labels, label)
    if isinstance(keep, bool) or not isinstance(keep, (int, float)) or not 0 < keep <= 1:
        raise InputError(f"keep must be above 0 and at most 1, got {keep!r}.")
    part = _Part(model, images, labels, label)
    full, num_real = part.accuracy(), part.num_real
    if full <= 0.5:
        raise InputError(f"the whole model does not tell class {label} from the others (balanced accuracy "
                         f"{100 * full:.1f} %): there is no circuit to find.")
    least = 0.5 + keep * (full - 0.5)
    share = 0.5
    while (number := int(share * part.num_real)) >= 1:
        if not part.without(part.least(number), least):
            share /= 2
    if part.num_real <= one_by_one:
        while any([part.without(edge[None], least) for edge in part.least(part.num_real)]):
            pass
    return Circuit(label, *part.learned(), part.accuracy(), full, num_real)


def _check(images, labels, label):
    if not isinstance(images, torch.Tensor) or not isinstance(labels, torch.Tensor) or labels.dim() != 1 or \
            labels.is_floating_point() or len(images) != len(labels) or not len(labels):
        raise InputError("expected images (N, ...) and integer labels (N,) of at least one image, got "
                         f"{getattr(images, 'shape', images)!r} and {getattr(labels, 'shape', labels)!r}.")
    if label is None:
        return
    if whole(label) is None or not (labels == label).any() or (labels == label).all():
        raise InputError(f"label must be a class of which there are images, and of which not all are, got {label!r}; "
                         f"the labels are {sorted(set(labels.tolist()))}.")


def _held(network: NeuralGraph) -> Frozen:
    """The selector of a network of :class:`_Part`."""
    assert isinstance(network.selector, Frozen)
    return network.selector


class _Part:
    """A copy of a model whose real edges can be left out."""

    def __init__(self, model, images, labels, label):
        if not any(isinstance(module, NeuralGraph) for module in model.modules()):
            raise InputError(f"expected a model with neural graphs inside, got a {type(model).__name__} without.")
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.images, self.labels, self.label = images, labels, label
        self.networks = [module for module in self.model.modules() if isinstance(module, NeuralGraph)]
        for network in self.networks:
            chosen = network.selection()
            with torch.no_grad():
                network.weight.copy_(chosen.weight)
            network.selector = frozen = Frozen(int(chosen.real.sum()))
            frozen.keep(chosen.real)
            network.weight.requires_grad_(True)
        self.sizes = [network.wiring.num_edges for network in self.networks]

    # What it answers

    def _batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return zip(self.images.split(BATCH), self.labels.split(BATCH))

    def _objective(self, images, labels) -> torch.Tensor:
        """This batch's part of f."""
        log_p = self.model(images).log_softmax(1)
        if self.label is None:
            return log_p.gather(1, labels[:, None]).sum() / len(self.labels)
        is_own = labels == self.label
        number = int((self.labels == self.label).sum())
        others = torch.cat([log_p[:, :self.label], log_p[:, self.label + 1:]], 1).logsumexp(1)
        return log_p[is_own, self.label].sum() / number + others[~is_own].sum() / (len(self.labels) - number)

    @torch.no_grad()
    def objective(self) -> float:
        return sum(self._objective(*batch).item() for batch in self._batches())

    @torch.no_grad()
    def accuracy(self) -> float:
        right, number = [0, 0], [0, 0]
        for images, labels in self._batches():
            called, own = self.model(images).argmax(1) == self.label, labels == self.label
            for side, mask in enumerate((own, ~own)):
                right[side] += int((called == own)[mask].sum())
                number[side] += int(mask.sum())
        return (right[0] / number[0] + right[1] / number[1]) / 2

    # Its edges: numbered over all networks

    @property
    def num_real(self) -> int:
        return int(self.real().sum())

    def real(self) -> torch.Tensor:
        return torch.cat([_held(network).mask for network in self.networks])

    def keep(self, real: torch.Tensor) -> None:
        for network, mask in zip(self.networks, real.split(self.sizes)):
            _held(network).keep(mask)

    def least(self, number: int) -> torch.Tensor:
        """That many real edges of the least attribution, ascending."""
        score = torch.cat(self.edge_gradients())
        real = self.real().nonzero().flatten()
        return real[score[real].argsort(stable=True)[:number]]

    def without(self, edges: torch.Tensor, least: float) -> bool:
        """Leaves these out if the accuracy stays at least that; whether it did."""
        before = self.real()
        self.keep(before.index_fill(0, edges, False))
        if self.accuracy() >= least - 1e-12:
            return True
        self.keep(before)
        return False

    def learned(self) -> tuple[tuple[torch.Tensor, ...], tuple[Wiring, ...]]:
        return (tuple(_held(network).mask.cpu() for network in self.networks),
                tuple(network.learned_wiring() for network in self.networks))

    # Attributions

    def edge_gradients(self) -> list[torch.Tensor]:
        """w df/dw of every network's edges, (E,) each."""
        weights = [network.weight for network in self.networks]
        total = [torch.zeros_like(weight) for weight in weights]
        for images, labels in self._batches():
            with torch.enable_grad():
                gradients = torch.autograd.grad(self._objective(images, labels), weights, allow_unused=True)
            for sums, gradient in zip(total, gradients):
                if gradient is not None:
                    sums += gradient
        return [(weight.detach() * gradient).where(_held(network).mask, gradient.new_zeros(()))
                for network, weight, gradient in zip(self.networks, weights, total)]

    def by_gradient(self) -> tuple[Attribution, ...]:
        found = []
        for network, edges in zip(self.networks, self.edge_gradients()):
            edges, wiring, real = edges.cpu(), network.wiring, _held(network).mask.cpu()
            outward, inward = (edges.new_zeros(wiring.num_nodes).index_add_(0, ends, edges)
                               for ends in (wiring.src, wiring.dst))
            is_read = torch.bincount(wiring.src[real], minlength=wiring.num_nodes) > 0
            found.append(Attribution(edges, outward.where(is_read, inward)))
        return tuple(found)

    def by_ablation(self) -> tuple[Attribution, ...]:
        full, real, found, first = self.objective(), self.real(), [], 0
        for network, size in zip(self.networks, self.sizes):
            wiring, own = network.wiring, real[first:first + size].nonzero().flatten().cpu()
            edges, nodes = torch.zeros(size), torch.zeros(wiring.num_nodes)
            for edge in own:
                edges[edge] = full - self._objective_without(real, first + edge[None])
            for node in range(wiring.num_nodes):
                outward, inward = (own[ends[own] == node] for ends in (wiring.src, wiring.dst))
                group = outward if len(outward) else inward
                if len(group):
                    nodes[node] = full - self._objective_without(real, first + group)
            found.append(Attribution(edges, nodes))
            first += size
        self.keep(real)
        return tuple(found)

    def _objective_without(self, real: torch.Tensor, edges: torch.Tensor) -> float:
        self.keep(real.index_fill(0, edges.to(real.device), False))
        return self.objective()
