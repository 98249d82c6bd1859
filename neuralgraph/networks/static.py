"""Static neural graphs: acyclic, every node updated once."""

from __future__ import annotations

import torch

from ..backends import Backend
from ..selectors import Selector
from ..wiring import Wiring, topological_stages
from ..wiring.devices import on_cpu
from .messages import Messages, Places, split
from .network import NeuralGraph


class StaticNeuralGraph(NeuralGraph):
    """An acyclic graph, evaluated in topological order.

        s_v = x_v                                                          for input nodes
        s_v = receive_v( sum over real edges (u,v) of w_uv send_u(s_u) )   for all others,
                         a product instead of the sum where the node's function says so
        y   = (s_v) over the output nodes

    Equation 1 of "Discovering Neural Wirings" (receive = f, send = identity) and, with receive =
    identity and send = norm, ReLU, convolution, the form of its section 2.4 and of the authors' code.
    Nodes at the same distance from the inputs are computed together.

    Args:
        wiring: acyclic; inputs without parents, outputs without children.
        selector: which edges are real, e.g. ``TopK(k=1000)``.
        backend: "dense", "sparse", "dgl" or "auto".
        seed: of the initial weights and the selector's draws; an integer or a generator.
        dtype: of weights and node values; by default torch's default.
        dims: dimensions of a map: 0 for numbers, 1 for signals, 2 for images, 3 for volumes.

    Shape:
        x: (B, inputs, *space), floating point; y: (B, outputs, *space'), where a side n of space becomes
        ceil(n / strides).

    Raises:
        WiringError: if the wiring is not static, or an operation cannot act on such maps.
        InputError: from ``forward``, for x of another shape or type.

    >>> import neuralgraph as ng
    >>> net = ng.StaticNeuralGraph(ng.wirings.blocks([3, 8, 8, 2]), ng.TopK(k=40))
    >>> net(torch.zeros(5, 3, 16, 16)).shape
    torch.Size([5, 2, 16, 16])
    >>> int(net.selection().real.sum())
    40
    >>> unit = ng.NodeFunction(receive="bias activation")
    >>> ng.StaticNeuralGraph(ng.wirings.chain([3, 8, 2], unit), ng.TopK(k=20), dims=0)(torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """

    _output_order: torch.Tensor
    _input_order: torch.Tensor

    @on_cpu
    def __init__(self, wiring: Wiring, selector: Selector, backend: str | Backend = "auto",
                 seed: int | torch.Generator = 0, *, dtype: torch.dtype | None = None, dims: int = 2):
        super().__init__(wiring, selector, backend, seed, dtype, dims)
        self._rows = [[self.functions.rows(chunk.nodes) for chunk in stage.chunks]
                      for stage in self.stages]
        self._places = Places(self.stages, wiring)
        order = torch.cat([chunk.nodes for stage in self.stages for chunk in stage.chunks
                           if chunk.is_output])
        self.register_buffer("_output_order", _places(wiring.outputs, order), persistent=False)
        self.register_buffer("_input_order", _places(self.stages[0].nodes, wiring.inputs), persistent=False)
        self._freeze_unused()

    _schedule = staticmethod(topological_stages)

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        if not hasattr(self._places, "pooled"):  # in pickles of version 0.2
            self._places = Places(self.stages, self.wiring)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self._checked(x)
        selection, fused = self._forward_selection(), self._is_fused(x)
        messages = Messages(self._places, x, fused)
        outputs = []
        for number, stage in enumerate(self.stages):
            sums = self._sums(number, x, messages, selection) if number else self._input_nodes(x)
            parts = split(sums, [len(chunk.nodes) for chunk in stage.chunks])
            for c, (chunk, rows, part) in enumerate(zip(stage.chunks, self._rows[number], parts)):
                state = self.functions.receive(chunk.function, rows, part, fused) if number else part
                if chunk.is_output:
                    outputs.append(state)
                elif fused:
                    messages.put((number, c), *self.functions.send_into(
                        messages.buffer((number, c)), chunk.function, rows, state))
                else:
                    messages.put((number, c), self.functions.send(chunk.function, rows, state), False)
        y = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
        return (y if self._output_order is None else y[:, self._output_order]).to(x.dtype)

    def _freeze_unused(self) -> None:
        """Marks parameters that no output depends on as not to be trained.

        They stay where other kinds of network on this wiring have them: what inputs receive, what outputs
        send, and what nodes compute from which no path leads to an output. DistributedDataParallel, for one,
        waits for the gradient of every parameter.
        """
        used: set[int] = set()
        read: set[tuple[int, int]] = set()  # chunks whose messages matter
        for number, stage in reversed(list(enumerate(self.stages))):
            matters = False
            for c, chunk in enumerate(stage.chunks):
                sends = (number, c) in read
                group = self.functions.groups[chunk.function]
                if sends:
                    used.update(id(p) for operation in group.send for p in operation.parameters())
                if number and (sends or chunk.is_output):
                    used.update(id(p) for operation in group.receive for p in operation.parameters())
                    matters = True
            if matters:
                read.update(stage.inputs)
        for parameter in self.functions.parameters():
            if id(parameter) not in used:
                parameter.requires_grad_(False)

    def _input_nodes(self, x):
        """The input channels in the order of stage 0."""
        return x if self._input_order is None else x[:, self._input_order]

    def _sums(self, number: int, x, messages: Messages, selection):
        stage = self.stages[number]
        if not stage.inputs:  # nodes without any candidate in-edge
            sides = (-(-side // stage.scale) for side in x.shape[2:])
            return x.new_full((x.shape[0], len(stage.nodes), *sides), float(stage.aggregate == "product"))
        arriving, shared = messages.of(number, stage.inputs)
        return self._aggregate(stage, arriving, selection, shared if self.backend.fuses_nodes else None)


def _places(nodes: torch.Tensor, among: torch.Tensor) -> torch.Tensor | None:
    """Where each of these nodes stands among the same nodes in another order; None if it is no other."""
    if torch.equal(nodes, among):
        return None
    order = among.argsort()
    return order[torch.searchsorted(among[order], nodes)]
