"""Wirings to and from networkx, and to the files that Gephi, Graphviz and others read."""

from __future__ import annotations

import json
import numbers
from collections.abc import Mapping
from pathlib import Path

import networkx as nx
import torch

from ..errors import InputError, WiringError, lookup
from ..nodes import IDENTITY, STATIC, NodeFunction, is_learned, used_values
from .generators import assemble
from .wiring import EDGE_DATA, OUTPUT, ROLES, STRUCTURE, Wiring, refuse_near_misses

_FUNCTION_FIELDS = ("send", "receive", "norm", "activation", "kernel_size", "stride",
                    "aggregate", "zero_pad")


def to_networkx(wiring: Wiring, real: torch.Tensor | None = None) -> nx.DiGraph:
    """The wiring as a :class:`networkx.DiGraph` with everything it holds as attributes.

    Nodes carry ``role`` ("input", "hidden", "output"), ``block``, ``send``, ``receive``, ``norm``,
    ``activation``, ``kernel_size``, ``stride``, ``aggregate``, ``zero_pad``,
    ``scale``, ``holds`` and, where the wiring carries learned
    values, those that the node uses: ``kernel`` (row by row), ``norm_weight``, ``norm_bias``,
    ``norm_mean``, ``norm_var``, ``bias``. Edges carry ``weight`` where there is one, and ``real``
    if it is given.

    Args:
        wiring: what to convert.
        real: marks the real edges, a mask (E,).

    Raises:
        WiringError: if this is no wiring, or ``real`` no mask of its edges.
    """
    if not isinstance(wiring, Wiring):
        raise WiringError(f"expected a wiring, got {type(wiring).__name__}; a network's is "
                          "network.learned_wiring().")
    if real is not None and (real.dtype != torch.bool or real.shape != wiring.src.shape):
        raise WiringError(f"real must be a bool mask of shape ({wiring.num_edges},), got {real.dtype} of "
                          f"shape {tuple(real.shape)}.")
    graph = nx.DiGraph()
    parameters = {name: value.tolist() for name, value in wiring.parameters.items()}
    used = [used_values(function) for function in wiring.functions]
    blocks, roles = wiring.block.tolist(), wiring.role.tolist()
    which, scales, holds = wiring.function.tolist(), wiring.scale.tolist(), wiring.holds.tolist()
    for node in range(wiring.num_nodes):
        function = wiring.functions[which[node]]
        attributes = {"role": ROLES[roles[node]], "block": blocks[node]}
        attributes |= {name: getattr(function, name) for name in _FUNCTION_FIELDS}
        attributes |= {"scale": scales[node], "holds": holds[node]}
        for name, values in parameters.items():
            if name not in used[which[node]]:
                continue
            value = values[node]
            if name == "kernel":
                value = _crop(value, function.kernel_size)
            attributes[name] = value
        graph.add_node(wiring.label(node), **attributes)
    ends = zip(wiring.src.tolist(), wiring.dst.tolist())
    columns = {}
    if wiring.weight is not None:
        columns["weight"] = wiring.weight.tolist()
    if real is not None:
        columns["real"] = real.tolist()
    for edge, (u, v) in enumerate(ends):
        graph.add_edge(wiring.label(u), wiring.label(v),
                       **{name: values[edge] for name, values in columns.items()})
    return graph


def from_networkx(graph: nx.DiGraph) -> Wiring:
    """The wiring that a directed networkx graph describes; the inverse of :func:`to_networkx`.

    Node attributes ``role`` and ``block`` are required. ``send``, ``receive``, ``norm``,
    ``activation``, ``kernel_size``, ``stride``, ``aggregate``, ``zero_pad`` follow
    :class:`NodeFunction`; a node with neither
    ``send`` nor ``receive`` is ``norm activation conv``, an output node the identity. ``scale``,
    ``holds``, learned node values and the edge attribute ``weight`` (on all edges or none) are taken over.
    Attributes of other names are not read, unless they look like a misspelt one: then it is an error.
    Nodes keep their order and their names; edges, which have no order in networkx, are sorted by
    destination, then source.

    Raises:
        WiringError: naming the node or edge and the attribute.

    >>> import networkx as nx
    >>> graph = nx.DiGraph([("a", "b"), ("b", "c")])
    >>> nx.set_node_attributes(graph, {"a": "input", "b": "hidden", "c": "output"}, "role")
    >>> nx.set_node_attributes(graph, {"a": 0, "b": 1, "c": 2}, "block")
    >>> from_networkx(graph)
    Wiring(3 nodes: 1 input, 1 hidden, 1 output; 2 candidate edges)
    """
    if not isinstance(graph, nx.Graph):
        raise WiringError(f"expected a networkx.DiGraph, got {type(graph).__name__}.")
    if not graph.is_directed():
        raise WiringError(
            f"expected a directed networkx graph, got {type(graph).__name__}: edges carry signals "
            "one way; graph.to_directed() makes both directions explicit."
        )
    labels = list(graph.nodes)
    place = {label: number for number, label in enumerate(labels)}
    nodes = [_read_node(label, data) for label, data in graph.nodes(data=True)]
    for u, v, data in graph.edges(data=True):
        refuse_near_misses(f"the edge {u!r} -> {v!r} has the unknown attribute", data, EDGE_DATA)
    edges = sorted(((place[v], place[u], data) for u, v, data in graph.edges(data=True)),
                   key=lambda edge: edge[:2])
    dst, src = torch.tensor([edge[:2] for edge in edges], dtype=torch.long).reshape(-1, 2).unbind(1)
    return assemble(
        src, dst,
        role=torch.tensor([node["role"] for node in nodes], dtype=torch.long),
        block=torch.tensor([node["block"] for node in nodes], dtype=torch.long),
        functions=[node["function"] for node in nodes],
        weight=_read_weights(labels, edges),
        parameters=_read_parameters(labels, nodes),
        scale=_read_column(labels, nodes, "scale"),
        holds=_read_column(labels, nodes, "holds"),
        labels=labels,
    )


def _read_node(label, data: Mapping) -> dict:
    refuse_near_misses(f"node {label!r} has the unknown attribute", data, STRUCTURE, learned=True)
    for name in ("role", "block"):
        if name not in data:
            example = ", ".join(map(repr, ROLES)) if name == "role" else "an integer >= 0"
            raise WiringError(f"node {label!r} has no {name!r}: set graph.nodes[{label!r}][{name!r}] "
                              f"to {'one of ' if name == 'role' else ''}{example}.")
    if data["role"] not in ROLES:
        raise WiringError(f"node {label!r} has the role {data['role']!r}; expected one of "
                          f"{', '.join(map(repr, ROLES))}.")
    role = ROLES.index(data["role"])
    fields = {name: data[name] for name in _FUNCTION_FIELDS if name in data}
    if "send" not in fields and "receive" not in fields:
        fields["send"] = IDENTITY.send if role == OUTPUT else STATIC.send
    try:
        function = NodeFunction(**fields)
    except (WiringError, LookupError, AttributeError) as error:
        raise WiringError(f"node {label!r}: {error}") from error
    for name in ("block", "scale"):
        value = data.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int):
            raise WiringError(f"node {label!r} has {name} {value!r}; expected an integer.")
    if not isinstance(data.get("holds"), (int, type(None))) or data.get("holds") not in (None, 0, 1):
        raise WiringError(f"node {label!r} has holds {data['holds']!r}; expected true or false.")
    learned = {name: _numbers(label, name, value) for name, value in data.items()
               if is_learned(name)}
    return {"role": role, "block": data["block"], "scale": data.get("scale"),
            "holds": data.get("holds"), "function": function, "learned": learned}


def _read_column(labels, nodes, name) -> torch.Tensor | None:
    """An optional structural attribute, which all nodes have or none."""
    values = [node[name] for node in nodes]
    if all(value is None for value in values):
        return None
    if None in values:
        raise WiringError(f"node {labels[values.index(None)]!r} has no {name!r} but others have one; "
                          "give it to all nodes or to none.")
    return torch.tensor(values, dtype=torch.long)


def _read_weights(labels, edges) -> torch.Tensor | None:
    weights = [data.get("weight") for _, _, data in edges]
    if all(weight is None for weight in weights):
        return None
    if None in weights:
        v, u, _ = edges[weights.index(None)]
        raise WiringError(f"the edge {labels[u]!r} -> {labels[v]!r} has no 'weight' but others have "
                          "one; give it to all edges or to none.")
    for (v, u, _), weight in zip(edges, weights):
        if isinstance(weight, bool) or not isinstance(weight, numbers.Real):
            raise WiringError(f"the edge {labels[u]!r} -> {labels[v]!r} has the weight {weight!r}; "
                              "expected a number.")
    return torch.tensor([float(weight) for weight in weights], dtype=torch.float64)


def _read_parameters(labels, nodes) -> dict[str, torch.Tensor]:
    names = {name for node in nodes for name in node["learned"]}
    parameters = {}
    for name in sorted(names):
        used = [name in used_values(node["function"]) for node in nodes]
        for label, node, uses in zip(labels, nodes, used):
            if uses != (name in node["learned"]):
                raise WiringError(
                    f"node {label!r} {'lacks' if uses else 'does not use'} the learned value "
                    f"{name!r}: give it to every node whose function uses it, and to no other."
                )
        if name == "kernel":
            parameters[name] = _stack_kernels(labels, nodes)
            continue
        value = torch.zeros(len(nodes), dtype=torch.float64)
        for number, node in enumerate(nodes):
            if used[number]:
                numbers = node["learned"][name]
                if len(numbers) != 1:
                    raise WiringError(f"node {labels[number]!r} has {len(numbers)} numbers in "
                                      f"{name!r}; expected one.")
                value[number] = numbers[0]
        parameters[name] = value
    return parameters


def _stack_kernels(labels, nodes) -> torch.Tensor:
    side = max(node["function"].kernel_size for node in nodes)
    kernels = torch.zeros(len(nodes), side, side, dtype=torch.float64)
    for label, node, kernel in zip(labels, nodes, kernels):
        size = node["function"].kernel_size
        numbers = node["learned"].get("kernel", [])
        if len(numbers) != size * size:
            raise WiringError(f"node {label!r} has a kernel of {len(numbers)} numbers; its "
                              f"kernel_size {size} needs {size * size}.")
        edge = (side - size) // 2
        kernel[edge:edge + size, edge:edge + size] = torch.tensor(
            numbers, dtype=torch.float64).view(size, size)
    return kernels


def _numbers(label, name, value) -> list[float]:
    """One number, a list of them, or the JSON text of a list (GraphML and GEXF hold no lists)."""
    try:
        if isinstance(value, str):
            value = json.loads(value)
        return [float(number) for number in (value if isinstance(value, list) else [value])]
    except (TypeError, ValueError) as error:
        raise WiringError(f"node {label!r} has {name} {value!r}; expected a number or a list of "
                          "numbers.") from error


def _crop(kernel: list[list[float]], size: int) -> list[float]:
    edge = (len(kernel) - size) // 2
    return [x for row in kernel[edge:edge + size] for x in row[edge:edge + size]]


# Files


def _flat(graph: nx.DiGraph) -> nx.DiGraph:
    """Lists as JSON text, for formats that hold none."""
    flat = nx.DiGraph()
    for node, data in graph.nodes(data=True):
        flat.add_node(node, **{name: json.dumps(value) if isinstance(value, list) else value
                               for name, value in data.items()})
    flat.add_edges_from(graph.edges(data=True))
    return flat


def _write_json(graph: nx.DiGraph, path: Path) -> None:
    try:
        text = json.dumps(nx.node_link_data(graph, edges="links"))
    except TypeError as error:
        raise WiringError(f"JSON cannot hold the names of these nodes: {error}.") from None
    path.write_text(text)


def _read_json(path: Path) -> nx.DiGraph:
    return nx.node_link_graph(json.loads(path.read_text()), edges="links")


def _write_dot(graph: nx.DiGraph, path: Path) -> None:
    def quote(value):
        text = str(value).replace("\\", "\\\\").replace('"', '\\"')
        return f'"{text}"'

    def attributes(data):
        return ", ".join(f"{name}={quote(value)}" for name, value in data.items())

    with path.open("w", encoding="utf-8") as file:
        file.write("digraph wiring {\n  rankdir=LR;\n")
        for node, data in _flat(graph).nodes(data=True):
            file.write(f"  {quote(node)} [{attributes(data)}];\n")
        for u, v, data in graph.edges(data=True):
            file.write(f"  {quote(u)} -> {quote(v)} [{attributes(data)}];\n")
        file.write("}\n")


FORMATS = {
    "graphml": lambda graph, path: nx.write_graphml_xml(_flat(graph), path),
    "gexf": lambda graph, path: nx.write_gexf(_flat(graph), path),
    "dot": _write_dot,
    "json": _write_json,
}
READERS = {
    "graphml": lambda path: nx.read_graphml(path, node_type=str),
    "gexf": lambda path: nx.read_gexf(path),
    "json": _read_json,
}


def write(wiring: Wiring, path: str | Path, format: str | None = None) -> Path:
    """Writes a wiring as GraphML, GEXF, DOT or node-link JSON.

    Learned kernels become JSON text in GraphML, GEXF and DOT, which hold no lists.

    Args:
        wiring: usually a learned one, ``network.learned_wiring()``.
        path: the file; it appears whole or not at all.
        format: a key of :data:`FORMATS`; by default the ending of ``path``.

    Raises:
        InputError: if there is no such folder.
        WiringError: if the format cannot hold the names: two are one as text, or JSON has no such type.
    """
    path = Path(path)
    format = format or path.suffix.lstrip(".")
    writer = lookup("format", format, FORMATS)
    graph = to_networkx(wiring)
    if format != "json":
        _check_texts(graph)
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent} to write {path.name} into.")
    partial = path.with_name(path.name + ".partial")
    try:
        writer(graph, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def read(path: str | Path) -> Wiring:
    """Reads a wiring from a GraphML, GEXF or node-link JSON file; the inverse of :func:`write`.

    GraphML and GEXF turn node names into text; names that are all whole numbers become numbers again.

    Raises:
        InputError: if the file is absent or no graph can be read from it.
        WiringError: if the graph is no wiring.
    """
    path = Path(path)
    reader = lookup("readable format", path.suffix.lstrip("."), READERS)
    try:
        graph = reader(path)
    except FileNotFoundError:
        raise InputError(f"there is no file {path}.") from None
    except Exception as error:  # each parser fails in its own way
        raise InputError(f"{path} is not a {path.suffix.lstrip('.')} file of a graph: "
                         f"{type(error).__name__}: {error}") from error
    if reader is not _read_json and all(_is_number(node) for node in graph):
        graph = nx.relabel_nodes(graph, {node: int(node) for node in graph})
    try:
        return from_networkx(graph)
    except WiringError as error:
        raise WiringError(f"{path}: {error}") from error


def _is_number(label: str) -> bool:
    """Whether this text is how a node number is written."""
    return label.isdecimal() and str(int(label)) == label


def _check_texts(graph: nx.DiGraph) -> None:
    """Refuses names that text makes one, such as 1 and "1"."""
    seen: dict[str, object] = {}
    for label in graph:
        if str(label) in seen:
            raise WiringError(f"the nodes {seen[str(label)]!r} and {label!r} have the same name as text; "
                              "rename one, or write JSON.")
        seen[str(label)] = label
