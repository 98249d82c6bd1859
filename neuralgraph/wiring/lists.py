"""Wirings from lists of edges: pairs, adjacency matrices, tables."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import compress
from typing import Any

import numpy as np
import torch

from ..errors import WiringError, listed
from ..nodes import NodeFunction
from .assembling import Draft, all_but_outputs, assemble, default_function, integer, node_list, numbers_of, repeated
from .devices import on_cpu
from .ends import Entries
from .matrices import entries_of
from .tables import read_table
from .wiring import Wiring

Functions = NodeFunction | Mapping[Hashable, NodeFunction] | Sequence[NodeFunction] | None
Blocks = Mapping[Hashable, int] | Sequence[int] | torch.Tensor | None


@on_cpu
def from_edges(edges: Iterable[tuple[Hashable, Hashable]] | torch.Tensor, *,
               inputs: Iterable[Hashable] | None = None, outputs: Iterable[Hashable] | None = None,
               num_nodes: int | None = None, functions: Functions = None, blocks: Blocks = None,
               weight: torch.Tensor | None = None, dims: int = 2, prune_unreachable: bool = False) -> Wiring:
    """A wiring from a list of edges; the edges keep their order.

    Where all nodes are named by integers these are node numbers, from 0 to ``num_nodes`` - 1. Otherwise
    nodes are what they are called, as in networkx: numbered as ``inputs``, ``edges`` and ``outputs`` first
    name them, with these names as ``wiring.labels``.

    Args:
        edges: pairs (source, destination) of node numbers or of names (hashable, but no fractions and
            truth values), or an integer tensor (E, 2).
        inputs: the input nodes, in the order of the input channels; by default those without in-edges, in
            the order of nodes.
        outputs: the output nodes, in the order of the output channels; by default those without out-edges.
        num_nodes: V, of numbered nodes; by default one more than the largest number that occurs.
        functions: one for all nodes but the outputs, by default as in :func:`blocks`; or a mapping from
            nodes to exceptions to that default; or one for each of the V nodes.
        blocks: a block number per node, or a mapping from nodes; by default the length of the longest path
            that ends in it (in a graph with cycles 0 for inputs, 1 for hidden and 2 for output nodes).
        weight: learned weights of the edges, floating point (E,).
        dims: of the states that it is made for, 0 (vectors) to 3; only the default of ``functions``
            depends on it.
        prune_unreachable: leave out the nodes that no input reaches, which are an error otherwise. Numbered
            nodes then keep their old numbers as names.

    >>> from_edges([(0, 1), (1, 2), (0, 2)], inputs=[0], outputs=[2]).block.tolist()
    [0, 1, 2]
    >>> from_edges([("eye", "mind"), ("mind", "hand")]).labels
    ('eye', 'mind', 'hand')
    """
    inputs, outputs = _channels("inputs", inputs), _channels("outputs", outputs)
    if not isinstance(edges, torch.Tensor):
        edges = _pairs(edges)
        names = [*(inputs or ()), *(node for pair in edges for node in pair), *(outputs or ())]
        if not all(_is_whole(name) for name in names):
            if num_nodes is not None:
                raise WiringError("num_nodes is for nodes that are numbers; names say how many there are.")
            return _named(edges, inputs, outputs, functions, blocks, weight, dims, prune_unreachable)
        edges = torch.tensor([[_in_64_bits("a node", node) for node in pair] for pair in edges],
                             dtype=torch.long).reshape(-1, 2)
    edges = _numbered(edges)
    inputs, outputs = _whole(inputs, outputs)
    mentioned = [*(inputs or ()), *(outputs or ()), *(map(int, edges.aminmax()) if len(edges) else ())]
    num_nodes = max(mentioned, default=-1) + 1 if num_nodes is None else integer("num_nodes", num_nodes)
    _check_there(mentioned, num_nodes)
    draft = Draft(range(num_nodes), Entries(edges[:, 0], edges[:, 1], (num_nodes, num_nodes)), inputs, outputs)
    return _finished(draft, functions, blocks, weight, dims, prune_unreachable)


@on_cpu
def from_adjacency(matrix: object, inputs: Iterable[int] | None = None, outputs: Iterable[int] | None = None, *,
                   weight: bool = False, functions: Functions = None, blocks: Blocks = None, dims: int = 2,
                   prune_unreachable: bool = False) -> Wiring:
    """A wiring from an adjacency matrix: A[u, v] != 0 is an edge u -> v, as in networkx.

    (A dense weight matrix of torch is the transposed one, [destination, source].) Edges are sorted by
    destination, then source.

    Args:
        matrix: A, square (V, V), real numbers or truth values: a numpy array, a sparse matrix or array of
            scipy, or a tensor of torch, dense or sparse. Repeated entries of a sparse one are added.
        weight: take the entries as learned weights of the edges.

    The other arguments are those of :func:`from_edges`.

    >>> A = torch.tensor([[0, 1, 1], [0, 0, 1], [0, 0, 0]])
    >>> from_adjacency(A, inputs=[0], outputs=[2])
    Wiring(3 nodes: 1 input, 1 hidden, 1 output; 3 candidate edges)
    """
    if not isinstance(weight, bool):
        raise WiringError(f"weight must be True, to take the entries as weights, or False, got {weight!r}.")
    ends, values = entries_of(matrix, weight)
    inputs, outputs = _whole(_channels("inputs", inputs), _channels("outputs", outputs))
    _check_there([*(inputs or ()), *(outputs or ())], ends.shape[0])
    draft = Draft(range(ends.shape[0]), ends, inputs, outputs)
    return _finished(draft, functions, blocks, values, dims, prune_unreachable)


@on_cpu
def from_table(table: object, source: Hashable = "source", target: Hashable = "target", *,
               weight: Hashable | None = None, add_repeated: bool = False, delimiter: str | None = None,
               inputs: Iterable[Hashable] | None = None, outputs: Iterable[Hashable] | None = None,
               functions: Functions = None, blocks: Blocks = None, dims: int = 2,
               prune_unreachable: bool = False) -> Wiring:
    """A wiring from a table with one row per edge, as connectomes are published.

    Nodes are named by what stands in the two columns; where that is text which is a whole number
    everywhere, by these numbers. Edges keep the order of the rows, nodes are numbered as in
    :func:`from_edges` with names, and ``wiring.labels`` has the names.

    Args:
        table: a file of text with a line of column names, separated by commas, tabs, semicolons or spaces
            and possibly compressed (``.gz``), or a ``pandas.DataFrame``.
        source: the column of the nodes at which edges begin, e.g. "pre". A number counts columns from 0, in
            a file without a line of names.
        target: the column of the nodes at which they end, e.g. "post".
        weight: the column of the learned weights, e.g. "syn_count"; by default edges carry none.
        add_repeated: take rows with the same two ends as one edge, with the sum of their weights (as where
            synapses are counted by region); they are an error otherwise.
        delimiter: what separates columns; by default the one that makes the columns appear.

    The other arguments are those of :func:`from_edges`.

    Raises:
        InputError: if the file cannot be read, lacks a column, or has a row that is incomplete.

    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> file = Path(mkdtemp()) / "worm.csv"
    >>> _ = file.write_text("pre,post,synapses\\nASEL,AIYL,13\\nAIYL,AIZL,7\\n")
    >>> wiring = from_table(file, "pre", "post", weight="synapses")
    >>> wiring.labels, wiring.weight.tolist()
    (('ASEL', 'AIYL', 'AIZL'), [13.0, 7.0])
    """
    pairs, weights = read_table(table, source, target, weight, delimiter)
    if add_repeated:
        total: dict[tuple, float] = {}
        for pair, value in zip(pairs, weights or [0.0] * len(pairs)):
            total[pair] = total.get(pair, 0.0) + value
        pairs, weights = list(total), None if weights is None else list(total.values())
    elif len(set(pairs)) < len(pairs):
        twice = repeated(pairs)
        raise WiringError(f"the edge {twice[0][0]!r} -> {twice[0][1]!r} stands in more than one row ({len(twice)} "
                          "repeated rows in all): with add_repeated=True they are one edge, and their weights "
                          "are added.")
    inputs, outputs = _channels("inputs", inputs), _channels("outputs", outputs)
    there = {node: 0 for pair in pairs for node in pair}
    for what, nodes in (("inputs", inputs), ("outputs", outputs)):
        numbers_of(what, nodes, there)  # a misspelt one would be a node of its own
    weight = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    return _named(pairs, inputs, outputs, functions, blocks, weight, dims, prune_unreachable)


# What they share


def _named(pairs, inputs, outputs, functions, blocks, weight, dims, prune_unreachable) -> Wiring:
    """From edges between names to edges between numbers."""
    names = list(dict.fromkeys([*(inputs or ()), *(node for pair in pairs for node in pair), *(outputs or ())]))
    number = {name: place for place, name in enumerate(names)}
    edges = torch.tensor([(number[u], number[v]) for u, v in pairs], dtype=torch.long).reshape(-1, 2)
    inputs, outputs = numbers_of("inputs", inputs, number), numbers_of("outputs", outputs, number)
    draft = Draft(names, Entries(edges[:, 0], edges[:, 1], (len(names), len(names))), inputs, outputs)
    return _finished(draft, functions, blocks, weight, dims, prune_unreachable)


def _finished(draft: Draft, functions, blocks, weight, dims, prune_unreachable) -> Wiring:
    if not isinstance(prune_unreachable, bool):
        raise WiringError(f"prune_unreachable must be True or False, got {prune_unreachable!r}.")
    functions = _functions(functions, draft.labels, draft.role, dims)
    blocks = None if blocks is None else _blocks(blocks, draft.labels)
    if prune_unreachable:
        nodes, edges = draft.prune()
        if isinstance(weight, torch.Tensor) and weight.shape == edges.shape:
            weight = weight[edges]
        functions = list(compress(functions, nodes.tolist()))
        blocks = None if blocks is None else blocks[nodes]
    return assemble(draft.ends, draft.role, draft.blocks() if blocks is None else blocks, functions,
                    weight=weight, channel=draft.channels(), labels=draft.labels)


def _functions(functions: Functions, labels: Sequence[Hashable], role: torch.Tensor,
               dims: int) -> Sequence[NodeFunction]:
    functions = default_function(dims, functions)
    if isinstance(functions, NodeFunction):
        return all_but_outputs(role, functions)
    if isinstance(functions, Mapping):
        _check_names("functions", functions, labels)
        base = all_but_outputs(role, default_function(dims))
        return [functions.get(label, function) for label, function in zip(labels, base)]
    if not isinstance(functions, Sequence) or len(functions) != len(labels):
        raise WiringError(f"functions must be {len(labels)}, one a node, or one for all, got {functions!r}.")
    return functions


def _blocks(blocks: Blocks, labels: Sequence[Hashable]) -> torch.Tensor:
    if isinstance(blocks, Mapping):
        _check_names("blocks", blocks, labels)
        lacking = [label for label in labels if label not in blocks]
        if lacking:
            raise WiringError(f"blocks must be one number for each node; {listed(map(repr, lacking))} has none.")
        blocks = [blocks[label] for label in labels]
    if not isinstance(blocks, Iterable):
        raise WiringError(f"blocks must be one number for each of the {len(labels)} nodes, got {blocks!r}.")
    if not isinstance(blocks, torch.Tensor):
        blocks = torch.tensor([_in_64_bits("a block", block) for block in blocks], dtype=torch.long)
    if blocks.shape != (len(labels),):
        raise WiringError(f"blocks must be one number for each of the {len(labels)} nodes, got shape "
                          f"{tuple(blocks.shape)}.")
    return blocks


def _whole(*lists: list[Hashable] | None) -> list[list[int] | None]:
    """The inputs and outputs as node numbers."""
    return [None if nodes is None else [integer(f"a node of {what}", node) for node in nodes]
            for what, nodes in zip(("inputs", "outputs"), lists)]


def _check_there(nodes: Sequence[int], num_nodes: int) -> None:
    lowest, highest = min(nodes, default=0), max(nodes, default=-1)
    if lowest < 0 or highest >= num_nodes:
        raise WiringError(f"node {lowest if lowest < 0 else highest} does not exist: nodes are 0 to "
                          f"{num_nodes - 1}.")


def _check_names(what: str, mapping: Mapping, labels: Sequence[Hashable]) -> None:
    known = set(labels)
    strangers = [node for node in mapping if node not in known]
    if strangers:
        numbers = f"the numbers 0 to {len(labels) - 1}" if isinstance(labels, range) else \
            f"called {listed(map(repr, labels))}"
        raise WiringError(f"{what} names {listed(map(repr, strangers))}, which is no node: nodes are {numbers}.")


def _in_64_bits(what: str, value: object) -> int:
    number = integer(what, value)
    if not -2**63 <= number < 2**63:
        raise WiringError(f"{what} must fit in 64 bits, got {number}.")
    return number


# Edges


def _pairs(edges: Any) -> list[tuple]:
    """A list of pairs of whole numbers or names."""
    given = edges.tolist() if hasattr(edges, "tolist") else edges
    pairs: list[tuple] = []
    try:
        for pair in [tuple(pair) if not isinstance(pair, (str, bytes)) else pair for pair in given]:
            if not isinstance(pair, tuple) or len(pair) != 2:
                raise TypeError(f"{pair!r} is no pair")
            pairs.append(pair)
            for node in pair:
                hash(node)
                if _is_odd(node):
                    raise TypeError(f"{node!r} is neither")
    except TypeError as error:
        raise WiringError("edges must be pairs of node numbers or names (source, destination): "
                          f"{error}.") from None
    return pairs


def _channels(what: str, nodes: Iterable[Hashable] | None) -> list[Hashable] | None:
    nodes = node_list(what, nodes)
    odd = [node for node in nodes or () if _is_odd(node)]
    if odd:
        raise WiringError(f"a node of {what} must be a whole number or a name, got {odd[0]!r}.")
    return nodes


def _is_odd(name: object) -> bool:
    """Whether this looks like a node number that went wrong."""
    return name is None or isinstance(name, (bool, np.bool_, float, np.floating, complex))


def _is_whole(name: object) -> bool:
    return isinstance(name, (int, np.integer)) and not isinstance(name, bool)


def _numbered(edges: torch.Tensor) -> torch.Tensor:
    whole = not (edges.is_floating_point() or edges.is_complex() or edges.dtype == torch.bool)
    if edges.dim() != 2 or edges.shape[1] != 2 or not whole:
        raise WiringError(
            f"edges must be pairs of node numbers (source, destination), got a tensor of "
            f"{edges.dtype} and shape {tuple(edges.shape)}."
        )
    return edges.cpu().long()

