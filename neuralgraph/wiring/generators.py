"""Wirings to start from. Every generator returns a frozen :class:`~neuralgraph.Wiring`."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable, Mapping, Sequence

import torch

from .._dgl import dgl
from ..errors import WiringError, listed
from ..nodes import IDENTITY, STATIC, NodeFunction
from .stages import longest_path_levels
from .wiring import _FUNCTION_CODES, HIDDEN, INPUT, OUTPUT, Wiring

DYNAMIC = NodeFunction(send="activation conv", receive="norm", norm="instance")


def blocks(sizes: Sequence[int], function: NodeFunction | Sequence[NodeFunction] = STATIC, *,
           input_stride: int = 1) -> Wiring:
    """Every edge from an earlier to a later block: A = {(u,v): u in B_i, v in B_j, i < j}.

    The node set of the paper's static graphs (section 2.1 and appendix A). The first block holds
    the inputs, the last one the outputs, which apply no operation. Edges are sorted by destination,
    then source, so that the weights into one block are a contiguous matrix [dst, src].

    Args:
        sizes: nodes per block, at least two blocks of at least one node.
        function: of every node but the outputs; or one for each block, the outputs' included.
        input_stride: stride of the convolution of the input nodes, in pixels.

    >>> blocks([2, 3, 1])
    Wiring(6 nodes: 2 input, 3 hidden, 1 output; 11 candidate edges)
    """
    return _blocks(sizes, function, input_stride, reach=None)


def chain(sizes: Sequence[int], function: NodeFunction | Sequence[NodeFunction] = STATIC, *,
          input_stride: int = 1) -> Wiring:
    """Every edge from a block to the next one: an ordinary layered network.

    With one 3x3 kernel per node this is a stack of depthwise-separable convolutions, the wiring of
    MobileNetV1; with ``NodeFunction("activation")`` it is a multi-layer perceptron. Arguments as in
    :func:`blocks`; ``function`` may also be one for each block, the outputs' included.

    >>> chain([2, 3, 1])
    Wiring(6 nodes: 2 input, 3 hidden, 1 output; 9 candidate edges)
    """
    return _blocks(sizes, function, input_stride, reach=1)


def complete_dag(nodes: int, *, inputs: int, outputs: int, function: NodeFunction = STATIC) -> Wiring:
    """Every edge u -> v with u < v: the acyclic graph of the paper's Algorithm 1.

    The first ``inputs`` nodes are inputs (no edges among them), the last ``outputs`` nodes outputs
    (no edges among them either).

    >>> complete_dag(5, inputs=2, outputs=1).num_edges      # pairs of 5, less the pair of inputs
    9
    """
    nodes, inputs, outputs, role = _roles(nodes, inputs, outputs)
    dst, src = torch.ones(nodes, nodes, dtype=torch.bool).tril(-1).nonzero().T
    keep = (role[dst] != INPUT) & (role[src] != OUTPUT)
    block = (torch.arange(nodes) - inputs + 1).clamp(0, nodes - outputs - inputs + 1)
    return assemble(src[keep], dst[keep], role, block, _default_functions(role, function))


def complete(nodes: int, *, inputs: int, outputs: int, function: NodeFunction = DYNAMIC) -> Wiring:
    """Every ordered pair of nodes, self-loops and edges into the inputs too: A = V x V.

    The node set of the paper's dynamic graphs (section 2.3). The first ``inputs`` nodes are inputs,
    the last ``outputs`` nodes outputs, and all have the same function.

    >>> complete(4, inputs=1, outputs=1)
    Wiring(4 nodes: 1 input, 2 hidden, 1 output; 16 candidate edges)
    """
    nodes, inputs, outputs, role = _roles(nodes, inputs, outputs)
    dst = torch.arange(nodes).repeat_interleave(nodes)
    src = torch.arange(nodes).repeat(nodes)
    block = torch.tensor([1, 0, 2])[role]
    return assemble(src, dst, role, block, [function] * nodes)


def from_edges(edges: Iterable[tuple[int, int]] | torch.Tensor, *, inputs: Iterable[int],
               outputs: Iterable[int], num_nodes: int | None = None,
               functions: NodeFunction | Mapping[int, NodeFunction] | Sequence[NodeFunction] = STATIC,
               blocks: Sequence[int] | None = None,
               weight: torch.Tensor | None = None) -> Wiring:
    """A wiring from a list of edges; the edges keep their order.

    Args:
        edges: pairs (source, destination) of node numbers, or an integer tensor (E, 2).
        inputs: the input nodes, ascending: the i-th channel of x belongs to the i-th input node in
            node order.
        outputs: the output nodes, ascending, likewise.
        num_nodes: V; by default one more than the largest number that occurs.
        functions: one for all nodes but the outputs; or a mapping of exceptions to that default;
            or one for each of the V nodes.
        blocks: a block number per node; by default the length of the longest path from an input
            (in a graph with cycles 0 for inputs, 1 for hidden and 2 for output nodes).
        weight: learned weights of the edges, floating point (E,).

    >>> from_edges([(0, 1), (1, 2), (0, 2)], inputs=[0], outputs=[2]).block.tolist()
    [0, 1, 2]
    """
    pairs = _pairs(edges)
    inputs, outputs = _channels("inputs", inputs), _channels("outputs", outputs)
    mentioned = [*inputs, *outputs, *([int(pairs.max())] if len(pairs) else [])]
    lowest = min([*inputs, *outputs, *([int(pairs.min())] if len(pairs) else [])], default=0)
    highest = max(mentioned, default=-1)
    num_nodes = highest + 1 if num_nodes is None else _integer("num_nodes", num_nodes)
    if lowest < 0 or highest >= num_nodes:
        wrong = lowest if lowest < 0 else highest
        raise WiringError(f"node {wrong} does not exist: nodes are 0 to {num_nodes - 1}.")
    both = sorted(set(inputs) & set(outputs))
    if both:
        raise WiringError(
            f"node {both[0]} is named as input and as output; a node has one role: add an output "
            "node and an edge to it."
        )
    role = torch.full((num_nodes,), HIDDEN)
    role[inputs], role[outputs] = INPUT, OUTPUT
    src, dst = pairs.long().unbind(1)
    if blocks is None:
        levels = longest_path_levels(num_nodes, src, dst)
        blocks = torch.tensor([1, 0, 2])[role] if levels is None else levels
    else:
        blocks = torch.as_tensor(blocks)
        if blocks.shape != (num_nodes,):
            raise WiringError(
                f"blocks must be one number for each of the {num_nodes} nodes, got shape "
                f"{tuple(blocks.shape)}."
            )
    if isinstance(functions, NodeFunction):
        functions = _default_functions(role, functions)
    elif isinstance(functions, Mapping):
        strangers = [node for node in functions if node not in range(num_nodes)]
        if strangers:
            raise WiringError(f"functions names {listed(map(repr, strangers))}, which is no node: nodes "
                              f"are the numbers 0 to {num_nodes - 1}.")
        base = _default_functions(role, STATIC)
        functions = [functions.get(node, base[node]) for node in range(num_nodes)]
    elif len(functions) != num_nodes:
        raise WiringError(f"functions must be {num_nodes}, one a node, got {len(functions)}.")
    return assemble(src, dst, role, blocks, functions, weight=weight)


def assemble(src: torch.Tensor, dst: torch.Tensor, role: torch.Tensor, block: torch.Tensor,
             functions: Sequence[NodeFunction], *, weight: torch.Tensor | None = None,
             parameters: Mapping[str, torch.Tensor] | None = None,
             scale: torch.Tensor | None = None, holds: torch.Tensor | None = None,
             labels: Sequence | None = None) -> Wiring:
    """Packs everything a wiring holds into a DGL graph and validates it."""
    graph = dgl.graph((src, dst), num_nodes=len(role))
    graph.ndata["role"], graph.ndata["block"] = role, block
    codes: dict[NodeFunction, list[int]] = {}
    for node, function in enumerate(functions):
        if not isinstance(function, NodeFunction):
            raise WiringError(f"the function of node {node} must be a NodeFunction, got {function!r}.")
        if function not in codes:
            codes[function] = [encode(getattr(function, name))
                               for name, (encode, _) in _FUNCTION_CODES.items()]
    table = torch.tensor([codes[function] for function in functions], dtype=torch.long).reshape(
        -1, len(_FUNCTION_CODES))
    for column, name in enumerate(_FUNCTION_CODES):
        graph.ndata[name] = table[:, column]
    for name, value in (parameters or {}).items():
        graph.ndata[name] = value
    for name, value in (("scale", scale), ("holds", holds)):
        if value is not None:
            graph.ndata[name] = value
    if weight is not None:
        if not isinstance(weight, torch.Tensor) or weight.shape != (len(src),):
            got = tuple(weight.shape) if isinstance(weight, torch.Tensor) else type(weight).__name__
            raise WiringError(f"weight must be a tensor of shape ({len(src)},), one an edge, got {got}.")
        graph.edata["weight"] = weight
    return Wiring(graph, labels=labels)


def _blocks(sizes, function, input_stride, reach):
    if not isinstance(sizes, Iterable):
        raise WiringError(f"sizes must be the numbers of nodes of two or more blocks, got {sizes!r}.")
    sizes = [_integer("the size of a block", size) for size in sizes]
    if len(sizes) < 2 or min(sizes) < 1:
        raise WiringError(
            f"sizes must be at least two blocks of at least one node each, got {sizes}."
        )
    block = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    start = [0]
    for size in sizes:
        start.append(start[-1] + size)
    src, dst = [], []
    for j in range(1, len(sizes)):
        sources = torch.arange(start[0 if reach is None else max(0, j - reach)], start[j])
        src.append(sources.repeat(sizes[j]))
        dst.append(torch.arange(start[j], start[j + 1]).repeat_interleave(len(sources)))
    role = torch.full((len(block),), HIDDEN)
    role[block == 0], role[block == len(sizes) - 1] = INPUT, OUTPUT
    if isinstance(function, NodeFunction):
        function = [function] * (len(sizes) - 1) + [IDENTITY]
    if len(function) != len(sizes):
        raise WiringError(f"expected one node function for each of the {len(sizes)} blocks, got "
                          f"{len(function)}.")
    if input_stride != 1:
        function = [dataclasses.replace(function[0], stride=input_stride), *function[1:]]
    functions = [f for f, size in zip(function, sizes) for _ in range(size)]
    return assemble(torch.cat(src), torch.cat(dst), role, block, functions)


def _roles(nodes, inputs, outputs):
    """The three numbers, checked, and the role of each node."""
    nodes, inputs = _integer("nodes", nodes), _integer("inputs", inputs)
    outputs = _integer("outputs", outputs)
    if inputs < 1 or outputs < 1 or inputs + outputs > nodes:
        raise WiringError(
            f"need at least one input and one output among the nodes, got {inputs} inputs and "
            f"{outputs} outputs of {nodes} nodes."
        )
    role = torch.full((nodes,), HIDDEN)
    role[:inputs], role[nodes - outputs:] = INPUT, OUTPUT
    return nodes, inputs, outputs, role


def _integer(what: str, value) -> int:
    """The number as an int, or an error: nothing is rounded, and True is not 1."""
    try:
        if isinstance(value, bool) or getattr(value, "dtype", None) == torch.bool:
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise WiringError(f"{what} must be an integer, got {value!r}.") from None


def _pairs(edges) -> torch.Tensor:
    """Edges as an integer tensor (E, 2)."""
    if not isinstance(edges, torch.Tensor):
        edges = list(edges)
        try:
            edges = torch.tensor(edges) if edges else torch.zeros(0, 2, dtype=torch.long)
        except (TypeError, ValueError) as error:
            raise WiringError("edges must be pairs of node numbers (source, destination): "
                              f"{error}.") from None
    whole = not (edges.is_floating_point() or edges.is_complex() or edges.dtype == torch.bool)
    if edges.dim() != 2 or edges.shape[1] != 2 or not whole:
        raise WiringError(
            f"edges must be pairs of node numbers (source, destination), got a tensor of "
            f"{edges.dtype} and shape {tuple(edges.shape)}."
        )
    return edges


def _channels(what: str, nodes: Iterable[int]) -> list[int]:
    """Nodes that stand for channels, which follow node order."""
    nodes = [_integer(f"a node of {what}", node) for node in nodes]
    if any(first >= second for first, second in zip(nodes, nodes[1:])):
        raise WiringError(
            f"{what} must be ascending without repetitions, because channels follow the order of node "
            f"numbers, got {listed(nodes)}: give sorted(set({what})), and number the nodes so that "
            "this is the order of the channels."
        )
    return nodes


def _default_functions(role, function):
    return [IDENTITY if r == OUTPUT else function for r in role.tolist()]
