"""Splitting steepest descent."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import nn

from .._modules import Model
from ..analysis import cost as cost_of
from ..errors import InputError, listed, lookup, whole
from ..models import Classifier
from ..networks import NeuralGraph
from .building import build, numbers_by_part
from .carrying import check_carries
from .chain import WEIGHTED, out_pixels
from .choosing import Cost, affordable, check_cost, check_fraction, lowest, priced
from .probing import Probe, checked
from .report import SplitNode, SplitReport
from .routes import ROUTES, Route
from .units import Units, costs, find

HALVES = ("kernel", "edges")
# an eigenvalue is 0 if it is less of the largest than so many times what the weights' type cannot tell from 1
ROUNDING = 16


def split(model: Model, batches: Iterable[Any], loss: Callable[..., Any], fraction: float = 0.3, epsilon: float = 1e-2,
          halve: str = "kernel", route: str | Route = "fast", cost: Cost = None, layer_cap: float | None = None,
          num_batches: int | None = None) -> tuple[Model, SplitReport]:
    """Replaces some nodes of a trained model by two, so that the loss falls where training could not lower it.

    A node v with weights a into it becomes two with a + epsilon v_min and a - epsilon v_min, each of half the
    effect. That changes the loss by

        epsilon^2 / 2 lambda_min,    S_v = E[ sum over pixels of dL/dm_v d^2 m_v / da^2 ],

    where m_v is the message of v and (lambda_min, v_min) the lowest eigenpair of its splitting matrix S_v
    ("Splitting Steepest Descent for Growing Neural Architectures", Wu, Wang, Liu, NeurIPS 2019). Those of
    lowest eigenvalue are split, where that is below 0. Training goes on with the model that is returned, and
    an optimizer of its own. Nodes that no output depends on are not looked at: their eigenvalue is 0.

    Everything is measured in evaluation mode: batch norms have their running statistics; an instance norm has
    those of the map, with which it bends.

    The report has two changes of the loss. ``predicted_change`` is the sum of the equation above over what was
    split. ``measured_change`` is the loss of the grown model less that of the model, on the same batches. For
    smooth activations they agree as epsilon goes to 0 (of several splits and a larger epsilon the next orders
    show). For those with a kink they do not: the second derivative of ReLU is 0 but for the kink, so that no
    curvature would be found at all, and the prediction takes that of the softplus of sharpness 3 instead (see
    :func:`~neuralgraph.growing.rectify`), which says by how much kinks near 0 count. It ranks nodes; the model
    itself bends only at the samples and pixels whose sums cross 0 within the step, which are few or none for a small
    epsilon. Then the measured change can be far from the predicted one, and of the other sign; ``agreement`` is
    their ratio, and ``smoothed`` says whether there were kinks.

    Args:
        model: a static or discrete-time network of any shape, a classifier of ``ng.models``, or a chain of
            linear and convolutional layers with norms, activations and pools between them (an
            :class:`torch.nn.Sequential`, or what torch.fx finds to be one), also with static networks among
            them. It is not changed.
        batches: pairs (x, target), gone through several times; an iterator is kept in memory. A sample of the
            training set is enough where it is large: time goes with its size.
        loss: of the model's output and a target, the mean over the batch; a function returning a scalar.
        fraction: g; the floor(g n) of n nodes with the lowest eigenvalues are split.
        epsilon: how far the weights into the two copies are moved, at least 0.
        halve: "kernel": the kernels of both are halved, as a selector by magnitude wants it; where a node
            does not end with its kernel, or in layers, the weights out of it are. "edges": these always.
        route: "fast" (:class:`~neuralgraph.growing.Fast`) or "exact" (:class:`~neuralgraph.growing.Exact`), or
            one of these with other settings.
        cost: choose by gain under a budget instead, ``fraction`` of the cost of all: "multiply-adds",
            "log-multiply-adds", or the cost of a node by its label, as a function or a mapping. Needs the
            extra ``grow``.
        layer_cap: with ``cost``, at most this share of the cost of each layer, or block of a graph, is spent there.
        num_batches: how many batches to use, the first ones; None for all. Eigenvalues and losses are means over
            these.

    Returns:
        The grown model, in the mode of the old one, and a :class:`~neuralgraph.growing.SplitReport`. k of a
        selector grows by the edges that are doubled: all real edges stay, and candidates into and out of a
        copy are those of its node.

    Raises:
        InputError: for an argument that makes no sense, and if nothing can be split.
        SelectionError: for a selector that cannot serve a grown network.
        MissingPackageError: without scipy, where ``cost`` is given.

    >>> import torch, neuralgraph as ng
    >>> unit = ng.NodeFunction("bias activation", activation="tanh")
    >>> net = ng.StaticNeuralGraph(ng.wirings.chain([2, 4, 1], unit), ng.Complete(), dims=0)
    >>> x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    >>> grown, report = split(net, [(x, x[:, :1] * x[:, 1:])], torch.nn.functional.mse_loss, 0.5, route="exact")
    >>> grown.wiring
    Wiring(8 nodes: 2 input, 5 hidden, 1 output; 15 candidate edges)
    >>> len(report.split), report.measured_change < 0
    (1, True)
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"expected a model, got {type(model).__name__}.")
    if not callable(loss):
        raise InputError(f"loss must be a function of the model's output and the target, got {loss!r}.")
    check_settings(fraction, epsilon, halve, route, cost, layer_cap, num_batches)
    route = route if isinstance(route, Route) else lookup("route", route, ROUTES)()
    for module in model.modules():
        if isinstance(module, NeuralGraph):
            check_carries(module)
    units = find(model)
    if not units.number:
        raise InputError("no node of this model can be split: " + "; ".join(
            f"{listed(labels, most=3)}: {why}" for why, labels in units.refused.items()) + ".")
    batches = _again(batches, num_batches)
    probe = Probe(model, loss, [part.name for part in units.parts if not isinstance(part.module, NeuralGraph)]
                  + _readers(units, model))
    eigenvalues, directions = route.solve(probe, units, batches)
    nothing = ROUNDING * max(torch.finfo(leaf.dtype).eps for leaf in probe.leaves.values()) * eigenvalues.abs().max()
    eigenvalues = eigenvalues.where(eigenvalues.abs() > nothing, 0.0)
    multiply_adds = costs(model, units, probe)
    if cost is None:
        chosen = lowest(eigenvalues, fraction)
    else:
        chosen = affordable(eigenvalues, priced(cost, units.labels, multiply_adds), fraction, units.layers,
                            1.0 if layer_cap is None else layer_cap)
    step = directions * chosen[units.owner] * epsilon
    grown = build(model, units, chosen, units.spread(step, probe.leaves), halve)
    after, sample = _mean_loss(grown, batches, loss)
    nodes = tuple(map(SplitNode, units.labels, eigenvalues.tolist(), (-epsilon**2 / 2 * eigenvalues).tolist(),
                      multiply_adds.tolist(), chosen.tolist()))
    budgets = {name: module.selector.k or module.selector.num_real for name, module in grown.named_modules()
               if isinstance(module, NeuralGraph)}
    growth: dict[str, dict] = {
        "split": {name: numbers.tolist() for name, numbers in numbers_by_part(units, chosen).items()}, "k": budgets}
    return grown, SplitReport(
        nodes, {why: tuple(labels) for why, labels in units.refused.items()}, epsilon,
        sum(route.losses) / len(route.losses), after, epsilon**2 / 2 * eigenvalues[chosen].sum().item(),
        _multiply_adds(model, sample), _multiply_adds(grown, sample), growth, probe.curved.met)


def check_settings(fraction: float = 0.3, epsilon: float = 1e-2, halve: str = "kernel", route: str | Route = "fast",
                   cost: Cost = None, layer_cap: float | None = None, num_batches: int | None = None) -> None:
    """Refuses arguments of :func:`split` that make no sense, before anything is computed.

    Raises:
        InputError, UnknownNameError: that says which.
    """
    check_fraction(fraction)
    check_cost(cost, layer_cap)
    if num_batches is not None and (whole(num_batches) or 0) < 1:
        raise InputError(f"num_batches must be an integer of at least 1, or None for all, got {num_batches!r}.")
    if isinstance(epsilon, bool) or not isinstance(epsilon, (int, float)) or not 0 <= epsilon < math.inf:
        raise InputError(f"epsilon must be a finite number of at least 0, got {epsilon!r}.")
    lookup("halve", halve, dict.fromkeys(HALVES))
    if not isinstance(route, Route):
        lookup("route", route, ROUTES)


def _readers(units: Units, model: nn.Module) -> list[str]:
    """The layers that read what can be split and have nothing to split themselves."""
    own = {part.name for part in units.parts}
    readers = [part.link.reader for part in units.parts if part.link is not None]
    return [name for name in readers if name not in own and isinstance(model.get_submodule(name), WEIGHTED)]


def _again(batches: Iterable, number: int | None) -> Callable[[], Iterator]:
    """A function that goes through the first batches once more."""
    if isinstance(batches, (torch.Tensor, str)) or not isinstance(batches, Iterable):
        raise InputError("batches must give pairs (x, target): a DataLoader or a list, got "
                         f"{type(batches).__name__}.")
    if isinstance(batches, Iterator):
        batches = list(islice(batches, number))

    def once():
        for batch in islice(batches, number):
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                got = f"{len(batch)} things" if isinstance(batch, (tuple, list)) else f"a {type(batch).__name__}"
                raise InputError(f"a batch must be a pair (x, target), got {got}.")
            yield batch
    return once


@torch.no_grad()
def _mean_loss(model: nn.Module, batches: Callable[[], Iterator], loss: Callable) -> tuple[float, Any]:
    """The mean loss of the batches in evaluation mode, and one x."""
    was = {module: module.training for module in model.modules()}
    model.eval()
    try:
        losses = []
        for x, target in batches():
            losses.append(checked(loss(model(x), target)).item())
    finally:
        for module, training in was.items():
            module.training = training
    return sum(losses) / len(losses), x


@torch.no_grad()
def _multiply_adds(model: nn.Module, x: torch.Tensor) -> int:
    """Of one sample; of a classifier as :func:`neuralgraph.analysis.cost` counts them."""
    if isinstance(model, Classifier):
        return cost_of(model).multiply_adds
    counted, hooks = [], []

    def count(module, args, y):
        counted.append(cost_of(module, *args[0].shape[-module.dims or len(args[0].shape):]).multiply_adds
                       if isinstance(module, NeuralGraph) else out_pixels(module, y) * module.weight.numel())

    inside = {part for module in model.modules() if isinstance(module, NeuralGraph) for part in module.modules()
              if part is not module}
    for module in model.modules():
        if module not in inside and isinstance(module, (NeuralGraph, *WEIGHTED)):
            hooks.append(module.register_forward_hook(count))
    was = {module: module.training for module in model.modules()}
    try:
        model.eval()(x[:1])
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in was.items():
            module.training = training
    return sum(counted)
