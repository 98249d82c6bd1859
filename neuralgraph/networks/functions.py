"""The node functions of a whole wiring: nodes with equal functions are computed together."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import nn

from .._modules import module_list
from ..backends.transforms import untransformed
from ..errors import WiringError
from ..nodes import NodeFunction, Operation, Rows, check_acts, operations_of, value_name
from ..wiring import Wiring
from ..wiring.reading import middle


class NodeGroup(nn.Module):
    """The N nodes of a wiring that have one function: ``receive`` and ``send`` as operations."""

    receive: Sequence[Operation]  # each an nn.ModuleList
    send: Sequence[Operation]

    def __init__(self, function: NodeFunction, nodes: torch.Tensor, dims: int):
        super().__init__()
        self.nodes = nodes
        for side in ("receive", "send"):
            operations = operations_of(function, side)
            for operation in operations:
                check_acts(operation, function, dims)
            setattr(self, side, module_list(operation(function, len(nodes), dims) for operation in operations))

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
        dims: dimensions of a map.

    Raises:
        WiringError: if an operation cannot act on such maps.
    """

    def __init__(self, wiring: Wiring, generator: torch.Generator, dtype: torch.dtype | None = None,
                 dims: int = 2):
        super().__init__()
        self.dims = dims
        self.groups = module_list(self._group(wiring, number, dims) for number in range(len(wiring.functions)))
        self._holds = wiring.holds
        self._row = torch.empty(wiring.num_nodes, dtype=torch.long)
        for group in self.groups:
            self._row[group.nodes] = torch.arange(len(group.nodes))
            for operation in (*group.receive, *group.send):
                operation.reset(generator)
        self.to(dtype)
        self.load(wiring.parameters)

    @staticmethod
    def _group(wiring: Wiring, number: int, dims: int) -> NodeGroup:
        nodes = (wiring.function == number).nonzero().flatten()
        try:
            return NodeGroup(wiring.functions[number], nodes, dims)
        except WiringError as error:
            raise WiringError(f"node {wiring.label(int(nodes[0]))!r}: {error}") from error

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
        return self._run(self.groups[function].receive, rows, total, fused, None)[0]

    def send(self, function: int, rows: Rows, state: torch.Tensor, fused: bool = False) -> torch.Tensor:
        """From the state to the message, for nodes of one function; ``fused``: compiled."""
        return self._run(self.groups[function].send, rows, state, fused, None)[0]

    def send_into(self, out: torch.Tensor | None, function: int, rows: Rows,
                  state: torch.Tensor) -> tuple[torch.Tensor, bool]:
        """The message, compiled, and whether it was written into ``out``, as it is where it can be."""
        return self._run(self.groups[function].send, rows, state, True, out)

    @staticmethod
    def _run(operations, rows, x, fused, out):
        if fused:
            from ..nodes import fused as compiled  # which needs numba
            return compiled.apply(operations, x, rows, out)
        for operation in operations:
            x = operation(x, rows)
        return x, False

    def acting(self, group: NodeGroup, holds: bool) -> tuple[Operation, ...]:
        """What is computed between the weighted sum, or the data that a node holds, and its message."""
        return tuple(group.send) if holds else (*group.receive, *group.send)

    def gain(self, steps: Collection[str] | None = None) -> torch.Tensor:
        """How much each node scales what it sends, (V,), differentiable.

        The product of the scales of its operations, as |gamma| of a norm and ||theta|| of a kernel, from the
        last norm on, which undoes those before it.

        Args:
            steps: the names of the operations that count; None for all.

        Raises:
            InputError: inside ``torch.func.vmap`` over learned values.
        """
        for parameter in self.parameters():
            untransformed(parameter)  # refuses several networks in one
        gain = next(self.parameters(), torch.zeros(())).new_ones(len(self._row))
        for group in self.groups:
            for holds in (False, True):
                scale = _scale(self.acting(group, holds), steps)
                mine = self._holds[group.nodes] if holds else ~self._holds[group.nodes]
                if scale is not None and mine.any():
                    gain = gain.index_put((group.nodes[mine].to(gain.device),), scale[mine.to(gain.device)])
        return gain

    def export(self) -> dict[str, torch.Tensor]:
        """The learned values of all nodes, name to (V, ...); zero where a node has none.

        Values of one name and different shapes (kernels of different sides) stand in the middle of the
        largest shape.
        """
        shapes: dict[str, tuple[int, ...]] = {}
        for _, name, value in self._values():
            shapes[name] = tuple(map(max, value.shape[1:], shapes.get(name, value.shape[1:])))
        values: dict[str, torch.Tensor] = {}
        for group, name, value in self._values():
            if name not in values:
                values[name] = value.new_zeros(len(self._row), *shapes[name])
            values[name][middle(shapes[name], value.shape[1:], group.nodes)] = value
        return values

    @torch.no_grad()
    def load(self, values: dict[str, torch.Tensor]) -> None:
        """Takes over learned values of the nodes, name to (V, ...), as :meth:`export` gives them.

        Names that no node uses are left alone. A value may also have one row per node that uses it.

        Raises:
            WiringError: for a value of the wrong shape or that is not finite, or a negative variance.
        """
        for group, name, target in self._values():
            if name not in values:
                continue
            value, own = values[name], target.shape[1:]
            if value.dim() != target.dim() and all(side == 1 for side in (*value.shape[1:], *own)):
                value = value.reshape(len(value), *own)  # one number, whatever the dimensions of maps
            value = value[group.nodes] if len(value) == len(self._row) else value
            fits = len(value) == len(target) and value.dim() == target.dim() and all(
                large >= small and (large - small) % 2 == 0 for large, small in zip(value.shape[1:], own))
            if not fits:
                raise WiringError(f"the wiring's node data {name!r} has the shape {tuple(values[name].shape)}; "
                                  f"expected ({len(self._row)}{''.join(f', {side}' for side in own)}) in a "
                                  f"network with dims={self.dims}, or larger with the values in the middle.")
            value = value[middle(value.shape[1:], own, slice(None))]
            if not value.isfinite().all():
                raise WiringError(f"the wiring's node data {name!r} must be finite.")
            if name.startswith("norm_var") and (value < 0).any():
                raise WiringError(f"the wiring's node data {name!r} are variances and must not be negative.")
            target.copy_(value)

    def _values(self) -> Iterator[tuple[NodeGroup, str, torch.Tensor]]:
        """Group, name in a wiring and values (n, ...) of all that is learned."""
        for group in self.groups:
            for name, operation, attribute in group.learned():
                yield group, name, operation.value(attribute).detach()


def _scale(operations: Sequence[Operation], steps: Collection[str] | None) -> torch.Tensor | None:
    """The product of the scales (N,) from the last norm on; None where there are none."""
    product = None
    for operation in reversed(operations):
        own = operation.scale() if steps is None or operation.name in steps else None
        if own is not None:
            product = own if product is None else product * own
        if operation.normalises:
            break
    return product
