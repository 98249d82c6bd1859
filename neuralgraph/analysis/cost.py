"""What a model costs: multiply-adds and parameters, of what is live and of what is there."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from .._html import facts
from ..errors import InputError, whole
from ..layers import Sparse
from ..models import Classifier
from ..networks import ContinuousTimeNeuralGraph, DiscreteTimeNeuralGraph, NeuralGraph, StaticNeuralGraph
from ..networks.functions import NodeFunctions
from ..nodes import Operation
from ..plan import evaluating, reduced
from ..selectors import Selector
from ..sharing import plain
from ..wiring.wiring import INPUT, OUTPUT
from .structure import dead_nodes

# accuracy (top-1 %), parameters (millions), multiply-adds (millions) of the paper's Table 3
TABLE_3 = {
    "MobileNetV1 x0.25": (50.6, 0.5, 41), "MobileNetV1 x0.5": (63.7, 1.3, 149),
    "DNW-Small x0.15": (50.3, 0.24, 22.1), "DNW-Small x0.225": (59.9, 0.4, 41.2),
    "DNW x0.225": (60.9, 1.1, 42.1), "DNW x0.3": (65.0, 1.3, 66.7), "DNW x0.49": (70.4, 1.8, 154),
    "RG x0.225": (53.3, 1.2, 55.7), "RG x0.49": (64.1, 1.8, 170),
}
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
POOLS = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)


@dataclass(frozen=True)
class Cost:
    """Counts for one image; costs add.

    Args:
        multiply_adds: of edges (one per pixel), kernels, other convolutions, fully connected layers,
            and one per pixel and channel of the final pool of a MobileNetV1-DNW, as the authors count
            it. Norms, activations and biases are left out (the paper's footnote 1).
        parameters: real edges, kernels, weights of other layers: the authors' count.
        norms_and_biases: the parameters that count leaves out.
        mask_words: 32-bit words that say where the real edges are, as one bit per candidate.
        list_words: likewise as a list, one 32-bit word (two 16-bit node numbers) per edge.
    """

    multiply_adds: int = 0
    parameters: int = 0
    norms_and_biases: int = 0
    mask_words: int = 0
    list_words: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Cost)))

    @property
    def stored_words(self) -> int:
        """All parameters and where the edges are, in 32-bit words, in the smaller of both forms."""
        return self.parameters + self.norms_and_biases + min(self.mask_words, self.list_words)

    def _repr_html_(self) -> str:
        return facts({"multiply-adds per image": self.multiply_adds, "parameters (authors' count)": self.parameters,
                      "norms and biases": self.norms_and_biases, "stored, 32-bit words": self.stored_words}, "cost")


def cost(model: Classifier | NeuralGraph, *space: int, skip_dead: bool = True) -> Cost:
    """The cost of a model, or of one network on maps of these sides.

    Args:
        model: a classifier (for images of its own size) or a network. A discrete-time network counts
            all its steps, a continuous-time one the evaluations of its last solve (at least one). A layer that
            is called several times counts each time, its parameters once; shared weights count as if they were
            plain.
        space: of a network, the sides of the maps at its input nodes in pixels: height and width of images.
        skip_dead: leave out, as the authors do, the kernels of nodes without real out-edge, and in a
            MobileNet the stem's filters and the classifier's columns that belong to dead nodes.

    Raises:
        InputError: for anything else than these, and for a classifier with a layer whose cost is not
            known.

    >>> import neuralgraph as ng
    >>> net = ng.StaticNeuralGraph(ng.wirings.chain([2, 3]), ng.Complete())
    >>> cost(net, 4, 4)                       # 6 edges and 2 kernels of 9, each on 16 pixels
    Cost(multiply_adds=384, parameters=24, norms_and_biases=4, mask_words=1, list_words=6)
    """
    model = plain(model)
    if isinstance(model, NeuralGraph):
        sides = ("", "length", "height and width", "depth, height and width")[model.dims]
        if len(space) != model.dims or not all((whole(side) or 0) > 0 for side in space):
            raise InputError("the cost of a network depends on the size of its maps: give "
                             f"{sides or 'no sides with dims=0'} in pixels, at least 1, got {space!r}.")
        return _network_cost(model, space, skip_dead)
    if not isinstance(model, Classifier):
        raise InputError(f"expected a classifier of neuralgraph.models or a network, got "
                         f"{type(model).__name__}.")
    if space:
        raise InputError(f"a classifier's cost is that of its own {model.image_size}x{model.image_size} "
                         "images; leave out height and width.")
    return _classifier_cost(model, skip_dead)


def _network_cost(network: NeuralGraph, space: tuple[int, ...], skip_dead: bool) -> Cost:
    wiring, real = network.wiring, _real(network)
    live = ~dead_nodes(wiring, real).no_out if skip_dead else torch.ones(wiring.num_nodes, dtype=torch.bool)
    edges = sum(math.prod(reduced(space, scale)) * count
                for scale, count in Counter(wiring.scale[wiring.ends.of(real)[1]].tolist()).items())
    repeats, all_functions = 1, [network.functions]
    if isinstance(network, DiscreteTimeNeuralGraph):
        repeats = network.steps or 1
        all_functions += network.later_functions
    elif isinstance(network, ContinuousTimeNeuralGraph):
        repeats = max(1, network.evaluations)
    kernels = weights = others = 0
    for number, functions in enumerate(all_functions):
        for nodes, incoming, operation, is_receive in executed(network, functions, space):
            alive = int(live[nodes].sum())
            if number == 0:
                kernels += alive * operation.multiply_adds(incoming)
            here = _parameters(operation)
            weights += alive * here[0]
            others += (len(nodes) if is_receive else alive) * here[1]
    k = int(real.sum())
    return Cost(int(edges + kernels) * repeats, k + weights, others, math.ceil(wiring.num_edges / 32), k)


def executed(network: NeuralGraph, functions: NodeFunctions, space: tuple[int, ...]) -> Iterator[
        tuple[torch.Tensor, tuple[int, ...], Operation, bool]]:
    """What one update runs: some nodes, the sides of the maps that enter, an operation, and whether it receives.

    In a static graph inputs hold the data and outputs send nothing; in a dynamic one all nodes send, and
    all receive but those that hold the data.
    """
    wiring = network.wiring
    if isinstance(network, StaticNeuralGraph):
        receives, sends = wiring.role != INPUT, wiring.role != OUTPUT
    else:
        receives, sends = ~wiring.holds, torch.ones(wiring.num_nodes, dtype=torch.bool)
    for number, group in enumerate(functions.groups):
        function = wiring.functions[number]
        for scale in wiring.scale[group.nodes].unique().tolist():
            here = group.nodes[wiring.scale[group.nodes] == scale]
            for operations, mask, is_receive in ((group.receive, receives, True), (group.send, sends, False)):
                for is_input in (False, True) if not is_receive else (None,):
                    nodes = here[mask[here]]
                    entering = scale
                    if is_input is not None:  # the state of an input of a static graph is the data itself
                        nodes = nodes[(wiring.role[nodes] == INPUT) == is_input]
                        entering = scale if is_input else scale * function.receive_stride
                    if not len(nodes):
                        continue
                    for operation in operations:
                        yield nodes, reduced(space, entering), operation, is_receive
                        entering *= operation.shrinks(function)


def _parameters(operation: Operation) -> tuple[int, int]:
    """Of one channel: weights, and what the authors' count leaves out."""
    weights = others = 0
    for name, attribute in operation.learned.items():
        if attribute in operation._parameters:
            number = operation.value(attribute)[:1].numel()
            weights, others = (weights + number, others) if name in operation.weights else (weights, others + number)
    return weights, others


def _classifier_cost(model: Classifier, skip_dead: bool) -> Cost:
    """Follows one image through the model and counts every call of every layer on the maps it sees."""
    stem_live, head_live = _live_ends(model) if skip_dead else (1.0, 1.0)
    inside = {module for network in model.networks for module in network.modules()}
    inside |= {module for module in model.modules() if isinstance(module, Selector)}  # what it learns is no layer
    layers = [m for m in model.modules() if m in set(model.networks) or (
        m not in inside and isinstance(m, (*WEIGHTED, *POOLS, *NORMS)))]
    for name, module in model.named_modules():
        if module not in inside and module not in layers and list(module.parameters(recurse=False)):
            raise InputError(f"the cost of the model's layer {name!r}, a {type(module).__name__}, is "
                             "not known.")
    calls: list[tuple[nn.Module, torch.Size, torch.Size]] = []
    hooks = [m.register_forward_hook(lambda m, args, out: calls.append((m, args[0].shape, out.shape)))
             for m in layers]
    solved = {network: network.evaluations for network in model.networks
              if isinstance(network, ContinuousTimeNeuralGraph) and network.evaluations}
    try:
        with torch.no_grad(), evaluating(model):
            parameter = next(model.parameters())
            model(parameter.new_zeros(1, model.in_channels, model.image_size, model.image_size))
    finally:
        for hook in hooks:
            hook.remove()
        for network, evaluations in solved.items():  # of the last solve of true images
            network.evaluations = evaluations
    in_stem, total, counted = set(model.stem.modules()), Cost(), set()
    for layer, before, after in calls:
        if isinstance(layer, NeuralGraph):
            price = _network_cost(layer, tuple(before[2:]), skip_dead)
        elif isinstance(layer, POOLS):
            price = Cost(multiply_adds=round(math.prod(before[1:]) * head_live))
        elif isinstance(layer, NORMS):
            price = Cost(norms_and_biases=sum(p.numel() for p in layer.parameters()))
        else:
            assert isinstance(layer, (nn.Linear, _ConvNd))  # of WEIGHTED
            price = _layer_cost(layer, after, stem_live if layer is model.stem else
                                head_live if layer not in in_stem else 1.0)
        total += Cost(price.multiply_adds) if layer in counted else price
        counted.add(layer)
    return total


def _layer_cost(layer: nn.Linear | _ConvNd, after: torch.Size, share: float) -> Cost:
    """Of a call of a convolution or fully connected layer, of whose weights only a share is live."""
    candidates = layer.weight.numel()
    weights = round((layer.k if isinstance(layer, Sparse) else candidates) * share)
    positions = math.prod(after[1:-1] if isinstance(layer, nn.Linear) else after[2:])
    biases = 0 if layer.bias is None else layer.bias.numel()
    if isinstance(layer, Sparse):
        return Cost(weights * positions, weights, biases, math.ceil(candidates / 32), weights)
    return Cost(weights * positions, weights, biases)


def _live_ends(model: Classifier) -> tuple[float, float]:
    """The shares of the first network's inputs that are read and of the last one's outputs that are fed."""
    if not model.stages:
        return 1.0, 1.0
    first, last = model.stages[0], model.stages[-1]
    inputs = first.wiring.inputs
    read = ~dead_nodes(first.wiring, _real(first)).no_out[inputs]
    fed = ~dead_nodes(last.wiring, _real(last)).no_in[last.wiring.outputs]
    return read.double().mean().item(), fed.double().mean().item()


def _real(network: NeuralGraph) -> torch.Tensor:
    """The real edges in evaluation."""
    return network.selection().real.cpu()


def executed_multiply_adds(model: nn.Module, x: torch.Tensor) -> int:
    """Multiply-adds per sample of what a forward in evaluation runs, counted as it runs.

    Edges count where they are real; a second opinion on :func:`cost` with ``skip_dead=False``, without
    the pool.

    Args:
        model: any module with neural graphs in it.
        x: what it takes; of a batch the first sample is used.
    """
    counted = 0

    def add(number: int) -> None:
        nonlocal counted
        counted += number

    def layer_called(layer, args, out):
        real = layer.k if isinstance(layer, Sparse) else layer.weight.numel()
        add(real * math.prod(out.shape[1:-1] if isinstance(layer, nn.Linear) else out.shape[2:]))

    def operation_called(operation, args, out):
        add(args[0].shape[1] * operation.multiply_adds(tuple(args[0].shape[2:])))

    networks = [module for module in model.modules() if isinstance(module, NeuralGraph)]
    inside = {module for network in networks for module in network.modules()}
    hooks = [module.register_forward_hook(operation_called if module in inside else layer_called)
             for module in model.modules()
             if isinstance(module, Operation if module in inside else WEIGHTED)]
    backends = [network.backend for network in networks]
    solved = [getattr(network, "evaluations", None) for network in networks]

    def counting(aggregate):
        def count(stage, messages, selection, *rest):
            sums = aggregate(stage, messages, selection, *rest)
            add(int(selection.real[stage.which].sum()) * math.prod(sums.shape[2:]))
            return sums
        return count

    try:
        for network in networks:
            network.backend = "dense"  # which fuses nothing, so that every operation is a call that can be seen
            vars(network)["_aggregate"] = counting(network._aggregate)
        with torch.no_grad(), evaluating(model):
            model(x[:1])
    finally:
        for network, backend, evaluations in zip(networks, backends, solved):
            network.backend = backend
            del network._aggregate
            if evaluations is not None:
                network.evaluations = evaluations
        for hook in hooks:
            hook.remove()
    return counted


def micronet_score(storage_words: float, multiplications: float, additions: float, *,
                   reference_words: float = 6.9e6, reference_operations: float = 1170e6,
                   half_precision: bool = True) -> float:
    """storage / reference + operations / reference, the score of the MicroNet challenge (NeurIPS 2019).

    By its rules sparse tensors are stored with a bitmask, ``Cost.mask_words``. The references are those
    of ImageNet; CIFAR-100 has 36.5e6 and 10.49e9, WikiText-103 159e6 and
    318e6. At half precision parameters and multiplications count one half, additions in full.

    >>> round(micronet_score(2_558_732, 515_231_310, 515_231_310), 4)      # the authors' own entry
    0.846
    """
    weight = 0.5 if half_precision else 1.0
    return (weight * storage_words / reference_words
            + (weight * multiplications + additions) / reference_operations)
