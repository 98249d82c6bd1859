"""What a model costs: multiply-adds and parameters, of what is live and of what is there."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, fields

import torch
from torch import nn

from ..errors import InputError
from ..models import Classifier
from ..networks import ContinuousTimeNeuralGraph, DiscreteTimeNeuralGraph, NeuralGraph
from ..nodes import DepthwiseConv
from ..wiring.wiring import INPUT
from .structure import dead_nodes

# accuracy (top-1 %), parameters (millions), multiply-adds (millions) of the paper's Table 3
TABLE_3 = {
    "MobileNetV1 x0.25": (50.6, 0.5, 41), "MobileNetV1 x0.5": (63.7, 1.3, 149),
    "DNW-Small x0.15": (50.3, 0.24, 22.1), "DNW-Small x0.225": (59.9, 0.4, 41.2),
    "DNW x0.225": (60.9, 1.1, 42.1), "DNW x0.3": (65.0, 1.3, 66.7), "DNW x0.49": (70.4, 1.8, 154),
    "RG x0.225": (53.3, 1.2, 55.7), "RG x0.49": (64.1, 1.8, 170),
}
NORMS = (nn.BatchNorm2d, nn.InstanceNorm2d)


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


def cost(model: Classifier | NeuralGraph, height: int | None = None, width: int | None = None, *,
         skip_dead: bool = True) -> Cost:
    """The cost of a model, or of one network on maps of ``height`` x ``width`` pixels.

    Args:
        model: a classifier (for images of its own size) or a network. A discrete-time network counts
            all its steps, a continuous-time one the evaluations of its last solve (at least one).
        height, width: of the maps at the input nodes, for a network only.
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
    if isinstance(model, NeuralGraph):
        if height is None or width is None or min(height, width) < 1:
            raise InputError("the cost of a network depends on the size of its maps: give height and "
                             f"width in pixels, at least 1, got {height!r} and {width!r}.")
        return _network_cost(model, height, width, skip_dead)
    if not isinstance(model, Classifier):
        raise InputError(f"expected a classifier of neuralgraph.models or a network, got "
                         f"{type(model).__name__}.")
    if height is not None or width is not None:
        raise InputError(f"a classifier's cost is that of its own {model.image_size}x{model.image_size} "
                         "images; leave out height and width.")
    return _classifier_cost(model, skip_dead)


def _network_cost(network: NeuralGraph, height: int, width: int, skip_dead: bool) -> Cost:
    wiring, real = network.wiring, _real(network)

    def pixels(scale: torch.Tensor) -> torch.Tensor:
        return -(-height // scale) * -(-width // scale)

    live = ~dead_nodes(wiring, real).no_out if skip_dead else torch.ones(wiring.num_nodes, dtype=torch.bool)
    updated = (wiring.role != INPUT) | torch.isin(torch.arange(wiring.num_nodes), wiring.dst)
    per_function = []
    for function in wiring.functions:
        area = function.kernel_size**2
        steps = (function.send.split(), function.receive.split())
        norms = [sum(2 for s in part if s == "norm") + part.count("bias") for part in steps]
        per_function.append([area * ("conv" in steps[0]), area * ("conv" in steps[1]), *norms])
    send, receive, send_norms, receive_norms = torch.tensor(per_function)[wiring.function].T
    kernels = send * live + receive * (updated & live)
    edges = pixels(wiring.scale)[wiring.dst][real].sum()
    nodes = (kernels * pixels(wiring.message_scale())).sum()
    repeats = 1
    if isinstance(network, DiscreteTimeNeuralGraph):
        repeats = network.steps or 1
    elif isinstance(network, ContinuousTimeNeuralGraph):
        repeats = max(1, network.evaluations)
    k = int(real.sum())
    return Cost(int(edges + nodes) * repeats, k + int(kernels.sum()),
                int((send_norms * live + receive_norms * updated).sum()),
                math.ceil(wiring.num_edges / 32), k)


def _classifier_cost(model: Classifier, skip_dead: bool) -> Cost:
    """Follows one image through the model and counts every layer on the maps it sees."""
    total = Cost()
    stem_live, head_live = _live_ends(model) if skip_dead else (1.0, 1.0)
    inside = {module for network in model.networks for module in network.modules()}
    sizes: dict[nn.Module, tuple] = {}
    layers = [m for m in model.modules() if m in set(model.networks) or (
        m not in inside and isinstance(m, (nn.Conv2d, nn.Linear, nn.AdaptiveAvgPool2d, *NORMS)))]
    for name, module in model.named_modules():
        if module not in inside and module not in layers and list(module.parameters(recurse=False)):
            raise InputError(f"the cost of the model's layer {name!r}, a {type(module).__name__}, is "
                             "not known.")
    hooks = [m.register_forward_hook(lambda m, args, out: sizes.update({m: (args[0].shape, out.shape)}))
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
    in_stem = set(model.stem.modules())
    for layer in layers:
        before, after = sizes[layer]
        if isinstance(layer, NeuralGraph):
            total += _network_cost(layer, *before[2:], skip_dead)
        elif isinstance(layer, nn.AdaptiveAvgPool2d):
            total += Cost(multiply_adds=round(before[1] * before[2] * before[3] * head_live))
        elif isinstance(layer, NORMS):
            total += Cost(norms_and_biases=sum(p.numel() for p in layer.parameters()))
        else:
            share = stem_live if layer is model.stem else head_live if layer not in in_stem else 1.0
            weights = round(layer.weight.numel() * share)
            positions = math.prod(after[2:]) if isinstance(layer, nn.Conv2d) else 1
            biases = 0 if layer.bias is None else layer.bias.numel()
            total += Cost(weights * positions, weights, biases)
    return total


def _live_ends(model: Classifier) -> tuple[float, float]:
    """The shares of the first network's inputs that are read and of the last one's outputs that are fed."""
    first, last = model.stages[0], model.stages[-1]
    inputs = first.wiring.inputs
    read = ~dead_nodes(first.wiring, _real(first)).no_out[inputs]
    fed = ~dead_nodes(last.wiring, _real(last)).no_in[last.wiring.outputs]
    return read.double().mean().item(), fed.double().mean().item()


def _real(network: NeuralGraph) -> torch.Tensor:
    """The real edges in evaluation."""
    with evaluating(network):
        return network.selection().real.cpu()


@contextlib.contextmanager
def evaluating(model: nn.Module):
    """Evaluation mode for a while; afterwards every part has the mode it had."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def executed_multiply_adds(model: nn.Module, images: torch.Tensor) -> int:
    """Multiply-adds per image of the operations that a forward in evaluation runs, counted as they run.

    Edges count where they are real; a second opinion on :func:`cost` with ``skip_dead=False``, without
    the pool.
    """
    counted = 0

    def convolution(module, args, out):
        nonlocal counted
        kernel = module.weight.shape[1:].numel()
        counted += kernel * out.shape[1:].numel()

    hooks = []
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, DepthwiseConv)):
            hooks.append(module.register_forward_hook(convolution))
        elif isinstance(module, nn.Linear):
            hooks.append(module.register_forward_hook(
                lambda m, args, out: convolution(m, args, out)))
    networks = [module for module in model.modules() if isinstance(module, NeuralGraph)]
    originals = [network.backend for network in networks]

    class Counting(type(originals[0])):
        def propagate(self, stage, messages, selection):
            nonlocal counted
            sums = super().propagate(stage, messages, selection)
            counted += int(stage.values(selection.real).sum()) * sums.shape[2:].numel()
            return sums

    try:
        for network in networks:
            network.backend = Counting()
        with torch.no_grad(), evaluating(model):
            model(images[:1])
    finally:
        for network, original in zip(networks, originals):
            network.backend = original
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
