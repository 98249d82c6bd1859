"""One batch through a model that is cut at its messages: the loss, and products with the splitting matrices."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from .. import backends
from ..backends import Backend, Shared
from ..errors import InputError
from ..networks import ContinuousTimeNeuralGraph, NeuralGraph
from ..selectors import Selection
from ..wiring import Stage
from .chain import is_depthwise, out_pixels
from .curvature import Curved
from .reducing import reduced_network

SCARCE = 20  # so many times fewer edges than a dense product has: they are added one by one


class Gathering(Backend):
    """Sums along real edges one by one where these are few, else by :class:`~neuralgraph.backends.dense.Dense`.

    Unlike the backends for training it has second derivatives, and costs no more than the real edges do.
    """

    def __init__(self):
        self.dense = backends.create("dense")

    def propagate(self, stage: Stage, messages: torch.Tensor, selection: Selection,
                  shared: Shared | None = None) -> torch.Tensor:
        real = selection.real[stage.which].nonzero().flatten()
        if len(real) * SCARCE > len(stage.nodes) * len(stage.sources):
            return self.dense.propagate(stage, messages, selection)
        device = messages.device
        src, dst = stage.src[real.cpu()].long().to(device), stage.dst[real.cpu()].long().to(device)
        weight = selection.weight[stage.which][real]
        products = messages.index_select(1, src) * weight.view(-1, *[1] * (messages.dim() - 2))
        sums = products.new_zeros(len(messages), len(stage.nodes), *messages.shape[2:])
        return sums.index_add(1, dst, products)


class Probe:
    """A copy of a model in evaluation mode whose messages can be looked at and held.

    A message is what a node sends along its edges, or what enters a layer. With all messages held at their
    values and G = dL/dm their gradients, the sum over nodes

        l(a) = sum_v < G_v, m_v(a_v) >,      m_v(a_v) = f_v( sum_u a_uv m_u )

    depends on the weights a_v into a node through that node alone, so that its Hessian is made of blocks,
    the splitting matrices S_v = E[ G_v d^2 m_v / da_v^2 ]. Nodes that no output depends on have no part in it:
    networks are computed without them.

    Args:
        model: not changed.
        loss: of the model's output and a target.
        layers: the names of layers whose inputs are messages and whose weights belong to a.
    """

    def __init__(self, model: nn.Module, loss: Callable, layers: Sequence[str]):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.loss = loss
        self.spaces: dict[str, tuple[int, ...]] = {}  # the sides of the maps that enter a network
        self.pixels: dict[str, int] = {}              # of a layer's outputs
        self.leaves: dict[str, torch.Tensor] = {}     # a of each network and layer
        self.curved = Curved()
        self._cut: Callable[[torch.Tensor], torch.Tensor] = lambda message: message
        for name, module in self.model.named_modules():
            if isinstance(module, NeuralGraph) and not isinstance(module, ContinuousTimeNeuralGraph):
                self._tap(name, module)
            elif name in layers:
                self.leaves[name] = module.weight.requires_grad_()
                module.register_forward_pre_hook(lambda _, args: (self._cut(args[0]),))
            if name in layers or is_depthwise(module):
                module.register_forward_hook(partial(self._measure_layer, name))

    def _tap(self, name: str, network: NeuralGraph) -> None:
        """Has a network computed by what is left of it, cut at its messages."""
        reduced, edges = reduced_network(network)
        reduced.backend = Gathering()
        self.leaves[name] = leaf = network.selection().weight.detach().clone().requires_grad_()
        real, edges = reduced.selection().real, edges.to(leaf.device)
        vars(reduced)["_forward_selection"] = lambda: Selection(real, leaf[edges], False)
        for functions in (reduced.functions, *getattr(reduced, "later_functions", ())):
            functions.receive = partial(self._receive, functions)
            functions.send = partial(self._send, functions)

        def through(method, x=None, *args, **options):
            if x is not None:
                self.spaces[name] = tuple(x.shape[x.dim() - network.dims:])
            return method(x, *args, **options)

        for method in ("forward", "trajectory"):
            if hasattr(reduced, method):
                setattr(network, method, partial(through, getattr(reduced, method)))

    def _receive(self, functions, function, rows, total, fused=False):
        return self.curved.run(functions.groups[function].receive, rows, total)

    def _send(self, functions, function, rows, state, fused=False):
        return self._cut(self.curved.run(functions.groups[function].send, rows, state))

    def _measure_layer(self, name, module, _, y):
        self.pixels[name] = out_pixels(module, y)

    @torch.enable_grad()
    def products(self, x: object, target: object) -> tuple[float, Callable[[dict], dict]]:
        """The loss of a batch, and a function from directions to S times directions, both by name as the leaves.

        Raises:
            InputError: for a loss that is not one finite number or has no gradient.
        """
        messages: list[torch.Tensor] = []

        def keep(message):
            message = message if message.requires_grad else message.detach().requires_grad_()
            messages.append(message)
            return message

        with self._cutting(keep):
            loss = checked(self.loss(self.model(x), target))
        if not loss.requires_grad:
            raise InputError("the loss does not depend on the model's output by torch's operations, so that it has "
                             "no gradient: compute it from y without detach(), item() or numpy.")
        gradients = torch.autograd.grad(loss, messages, allow_unused=True)
        held = iter(list(zip(messages, gradients)))
        total = []

        def hold(message):
            value, gradient = next(held)
            if gradient is not None:
                total.append((gradient.detach() * message).sum())
            return value.detach()

        with self._cutting(hold), self.curved:
            self.model(x)
        leaves = list(self.leaves.values())
        first = _grad(sum(total), leaves, create_graph=True)
        return loss.item(), partial(self._product, first, leaves)

    def _product(self, first, leaves, directions):
        """S v part by part: where v is 0 so is S v, and what leads there is not gone through."""
        moved = [number for number, name in enumerate(self.leaves) if directions[name].any()]
        names = list(self.leaves)
        inner = sum((first[number] * directions[names[number]]).sum() for number in moved)
        found = dict(zip(moved, _grad(inner, [leaves[number] for number in moved], retain_graph=True)))
        return {name: found.get(number, torch.zeros_like(leaves[number])) for number, name in enumerate(self.leaves)}

    @contextlib.contextmanager
    def _cutting(self, cut):
        before, self._cut = self._cut, cut
        try:
            yield
        finally:
            self._cut = before


def _grad(value, leaves, **options):
    """Gradients that are 0 where the value does not depend on a leaf."""
    if not isinstance(value, torch.Tensor) or not value.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    found = torch.autograd.grad(value, leaves, allow_unused=True, **options)
    return [torch.zeros_like(leaf) if gradient is None else gradient for gradient, leaf in zip(found, leaves)]


def checked(loss: object) -> torch.Tensor:
    """The loss as a scalar, or an error."""
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise InputError(f"loss must return a tensor of one number, the mean over the batch, got {got}.")
    if not loss.isfinite():
        raise InputError(f"the loss is {loss.item()}, so that nothing can be said of its change: the training has "
                         "diverged.")
    return loss.reshape(())
