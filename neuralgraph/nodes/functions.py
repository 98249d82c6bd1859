"""The node functions of a whole wiring: nodes with equal functions are computed together."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from ..errors import WiringError
from ..wiring import NodeFunction, Wiring
from ..wiring.function import value_name
from .operations import Operation, Rows, build


class NodeGroup(nn.Module):
    """The N nodes of a wiring that have one function: ``receive`` and ``send`` as operations."""

    def __init__(self, function: NodeFunction, nodes: torch.Tensor):
        super().__init__()
        self.nodes = nodes
        for name in ("receive", "send"):
            steps = getattr(function, name).split()
            setattr(self, name, nn.ModuleList(build(step, function, len(nodes)) for step in steps))

    def learned(self) -> Iterator[tuple[str, Operation, str]]:
        """The learned values: name in a wiring, operation, name in the operation."""
        seen: dict[type, int] = {}
        for operation in (*self.receive, *self.send):
            seen[type(operation)] = occurrence = seen.get(type(operation), 0) + 1
            for name, attribute in operation.learned.items():
                yield value_name(name, occurrence), operation, attribute


class NodeFunctions(nn.Module):
    """receive_v and send_v for every node v of a wiring.

    Parameters are stored per distinct function with one row per node, in node order; they do not
    depend on the order in which a network visits the nodes.

    Args:
        wiring: learned values it carries are taken over; the others are drawn.
        generator: for the kernels.
        dtype: of all parameters; by default torch's default.
    """

    def __init__(self, wiring: Wiring, generator: torch.Generator, dtype: torch.dtype | None = None):
        super().__init__()
        self.groups = nn.ModuleList(
            NodeGroup(function, (wiring.function == number).nonzero().flatten())
            for number, function in enumerate(wiring.functions))
        self._row = torch.empty(wiring.num_nodes, dtype=torch.long)
        for group in self.groups:
            self._row[group.nodes] = torch.arange(len(group.nodes))
            for operation in (*group.receive, *group.send):
                operation.reset(generator)
        self.to(dtype)
        self.load(wiring.parameters)

    def rows(self, nodes: torch.Tensor) -> Rows:
        """Where the parameters of ``nodes`` (which share a function) stand in their group."""
        rows = self._row[nodes]
        first = int(rows[0])
        if torch.equal(rows, torch.arange(first, first + len(rows))):
            return slice(first, first + len(rows))
        return rows

    def receive(self, function: int, rows: Rows, total: torch.Tensor,
                fused: bool = False) -> torch.Tensor:
        """From the weighted sum to the state, for nodes of one function; ``fused``: compiled."""
        return self._run(self.groups[function].receive, rows, total, fused)

    def send(self, function: int, rows: Rows, state: torch.Tensor, fused: bool = False,
             room: torch.Tensor | None = None) -> torch.Tensor:
        """From the state to the message, for nodes of one function; ``fused``: compiled.

        The message stands in ``room`` if there is one and a compiled operation computes it.
        """
        return self._run(self.groups[function].send, rows, state, fused, room)

    @staticmethod
    def _run(operations, rows, x, fused, room=None):
        if fused:
            from . import fused as compiled  # which needs numba
            return compiled.apply(operations, x, rows, room)
        for operation in operations:
            x = operation(x, rows)
        return x

    def export(self) -> dict[str, torch.Tensor]:
        """The learned values of all nodes, name to (V, ...); zero where a node has none."""
        values: dict[str, torch.Tensor] = {}
        side = max((op.kernel_size for group in self.groups for name, op, _ in group.learned()
                    if name == "kernel"), default=0)
        for group in self.groups:
            for name, operation, attribute in group.learned():
                value = getattr(operation, attribute).detach()
                shape = (side, side) if name == "kernel" else ()
                if name not in values:
                    values[name] = value.new_zeros(len(self._row), *shape)
                if name == "kernel":
                    edge = (side - operation.kernel_size) // 2
                    window = slice(edge, side - edge)
                    values[name][group.nodes, window, window] = value[:, 0]
                else:
                    values[name][group.nodes] = value
        return values

    @torch.no_grad()
    def load(self, values: dict[str, torch.Tensor]) -> None:
        """Takes over learned values of the nodes, name to (V, ...), as :meth:`export` gives them.

        Names that no node uses are left alone.

        Raises:
            WiringError: for a value of the wrong shape or that is not finite.
        """
        num_nodes = len(self._row)
        for group in self.groups:
            for name, operation, attribute in group.learned():
                if name not in values:
                    continue
                target, value = getattr(operation, attribute), values[name]
                if name == "kernel":
                    value = self._centred(value, operation.kernel_size, num_nodes)
                value = value[group.nodes] if len(value) == num_nodes else value
                if name == "kernel":
                    value = value[:, None]
                if value.shape != target.shape:
                    raise WiringError(
                        f"the wiring's node data {name!r} has shape {tuple(values[name].shape)}; "
                        f"expected one {'kernel' if name == 'kernel' else 'number'} for each of the "
                        f"{num_nodes} nodes."
                    )
                if not value.isfinite().all():
                    raise WiringError(f"the wiring's node data {name!r} must be finite.")
                target.copy_(value)

    @staticmethod
    def _centred(kernels: torch.Tensor, size: int, num_nodes: int) -> torch.Tensor:
        """The middle (size x size) part of kernels that are padded to a common side."""
        if kernels.dim() != 3 or kernels.shape[1] < size or kernels.shape[1] % 2 == 0:
            raise WiringError(
                f"the wiring's node data 'kernel' has shape {tuple(kernels.shape)}; expected "
                f"({num_nodes}, s, s) with an odd side s of at least {size}."
            )
        edge = (kernels.shape[1] - size) // 2
        return kernels[:, edge:edge + size, edge:edge + size]
