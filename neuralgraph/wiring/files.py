"""Wirings in the files that Gephi, Graphviz, networkx and others read."""

from __future__ import annotations

import inspect
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from .. import _files
from .._modules import Lazy
from ..errors import InputError, WiringError, listed, lookup
from .devices import on_cpu
from .exchange import from_networkx, to_networkx
from .wiring import Wiring

if TYPE_CHECKING:
    import networkx as nx
else:
    nx = Lazy("networkx")

# what XML 1.0 has no way to write
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write(wiring: Wiring, path: str | Path, format: str | None = None, *, live_only: bool = False) -> Path:
    """Writes a wiring as GraphML, GEXF, DOT or node-link JSON.

    Learned kernels become JSON text in GraphML, GEXF and DOT, which hold no lists. JSON is what
    ``networkx.node_link_graph`` of the installed version reads.

    Args:
        wiring: usually a learned one, ``network.learned_wiring()``.
        path: the file; it appears whole or not at all.
        format: a key of :data:`FORMATS`; by default the ending of ``path``.
        live_only: leave out the nodes without edges, which make Graphviz's pictures wide; of DOT only, as what is left
            need not be a wiring.

    Raises:
        InputError: if the file cannot be written.
        WiringError: if the format cannot hold the names of the nodes.
    """
    path, format = _checked(path, format)
    make = lookup("format", format, FORMATS)
    graph = to_networkx(wiring)
    if live_only:
        if format != "dot":
            raise InputError(f"live_only is of the format dot, which nothing reads as a wiring, not of {format}.")
        graph.remove_nodes_from(list(nx.isolates(graph)))
    content = make(graph)
    try:
        if not path.parent.is_dir():
            raise InputError(f"there is no folder {path.parent} to write {path.name} into.")
        _files.replace(path, content)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}.") from error
    return path


@on_cpu
def read(path: str | Path, format: str | None = None) -> Wiring:
    """Reads a wiring from a GraphML, GEXF or node-link JSON file; the inverse of :func:`write`.

    GraphML and GEXF turn node names into text; names that are all whole numbers become numbers again. In
    GEXF an edge without a weight, where others have one, has the weight 1: Gephi writes it so. Node-link
    data may call their edges "edges" or "links".

    Args:
        path: the file.
        format: a key of :data:`READERS`; by default the ending of ``path``.

    Raises:
        InputError: if the file cannot be read, or no graph from it.
        WiringError: if the graph is no wiring; see :func:`neuralgraph.from_networkx`.
    """
    path, format = _checked(path, format)
    parse = lookup("readable format", format, READERS)
    content = read_bytes(path)
    try:
        graph = parse(content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # each parser fails in its own way
        raise InputError(f"{path} is not a {format} file of a graph: {type(error).__name__}: {error}") from error
    if format != "json" and all(is_number(node) for node in graph):
        graph = nx.relabel_nodes(graph, {node: int(node) for node in graph})
    try:
        return from_networkx(graph)
    except WiringError as error:
        raise WiringError(f"{path}: {error}") from error


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        InputError: saying why there is none.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"there is no file {path}.") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a null
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}.") from error


def is_number(label: str) -> bool:
    """Whether this text is how a node number is written."""
    return len(label) < 20 and label.isascii() and label.isdecimal() and str(int(label)) == label


def _checked(path: str | Path, format: str | None) -> tuple[Path, str]:
    """The path, and the format that it has or is said to have."""
    try:
        path = Path(path)
    except TypeError:
        raise InputError(f"expected the path of a file, got {path!r}.") from None
    return path, path.suffix.lstrip(".").lower() if format is None else format


# XML and DOT, in which names are text


def _with_texts(graph: nx.DiGraph, forbidden: re.Pattern) -> nx.DiGraph:
    """The graph with lists as JSON text; refuses names that are no text of their own."""
    seen: dict[str, Hashable] = {}
    for label in graph:
        text = str(label)
        if text in seen:
            raise WiringError(f"the nodes {seen[text]!r} and {label!r} have the same name as text; "
                              "rename one, or write JSON.")
        if forbidden.search(text) or not text:
            raise WiringError(f"the name of the node {label!r} cannot be written in this format, which has no empty "
                              f"names and no such characters: rename it, or write JSON.")
        seen[text] = label
    flat = nx.DiGraph()
    for node, data in graph.nodes(data=True):
        flat.add_node(node, **{name: json.dumps(value) if isinstance(value, list) else value
                               for name, value in data.items()})
    flat.add_edges_from(graph.edges(data=True))
    return flat


def _graphml(graph: nx.DiGraph) -> bytes:
    file = io.BytesIO()
    nx.write_graphml_xml(_with_texts(graph, _NO_XML), file)
    return file.getvalue()


def _gexf(graph: nx.DiGraph) -> bytes:
    file = io.BytesIO()
    nx.write_gexf(_with_texts(graph, _NO_XML), file)
    return file.getvalue()


def _parse_xml(content: bytes, reader: Callable) -> nx.DiGraph:
    nodes = Counter(element.get("id") for _, element in ElementTree.iterparse(io.BytesIO(content))
                    if element.tag.rpartition("}")[2] == "node")
    _refuse_repeated("node", [node for node, count in nodes.items() if count > 1])
    return reader(io.BytesIO(content))


def _parse_graphml(content: bytes) -> nx.DiGraph:
    return _parse_xml(content, lambda file: nx.read_graphml(file, node_type=str))


def _parse_gexf(content: bytes) -> nx.DiGraph:
    graph = _parse_xml(content, nx.read_gexf)
    edges = [data for _, _, data in graph.edges(data=True)]
    if any("weight" in data for data in edges):
        for data in edges:
            data.setdefault("weight", 1.0)
    return graph


def _dot(graph: nx.DiGraph) -> bytes:
    """Blocks are ranks, roles fill colours; edges are blue above 0 and red below, the stronger the thicker."""
    def quote(value):
        text = str(value).replace("\\", "\\\\").replace('"', '\\"')
        return f'"{text}"'

    def attributes(data):
        return ", ".join(f"{name}={quote(value)}" for name, value in data.items())

    flat = _with_texts(graph, re.compile("[\0\ud800-\udfff]"))
    most = max((abs(weight) for _, _, weight in flat.edges(data="weight", default=1.0)), default=1.0)
    lines = ["digraph wiring {", "  rankdir=LR; ranksep=2; node [shape=circle, style=filled, fillcolor=white];"]
    for node, data in flat.nodes(data=True):
        lines.append(f"  {quote(node)} [{attributes({**data, **_FILL.get(data['role'], {})})}];")
    blocks: dict[int, list] = {}
    for node, block in flat.nodes(data="block"):
        blocks.setdefault(block, []).append(node)
    if all(flat.nodes[u]["block"] < flat.nodes[v]["block"] for u, v in flat.edges):
        lines += [f"  {{ rank=same; {'; '.join(map(quote, nodes))}; }}" for _, nodes in sorted(blocks.items())]
    for u, v, data in flat.edges(data=True):
        weight = data.get("weight", 0.0)
        drawn = {"color": "#0072B2" if weight > 0 else "#D55E00" if weight < 0 else "#888888",
                 "penwidth": f"{0.3 + 2.7 * abs(weight) / most if most else 0.3:.2f}"}
        lines.append(f"  {quote(u)} -> {quote(v)} [{attributes({**data, **drawn})}];")
    return "\n".join([*lines, "}\n"]).encode()


_FILL = {"input": {"fillcolor": "#009E73"}, "output": {"fillcolor": "#CC79A7"}}


# Node-link JSON, in which names are texts, numbers or lists of them, which stand for tuples


def _json(graph: nx.DiGraph) -> bytes:
    def is_plain(label):
        return isinstance(label, (str, int)) or (isinstance(label, float) and math.isfinite(label))

    wrong = [label for label in graph
             if not (all(map(is_plain, label)) if isinstance(label, tuple) else is_plain(label))]
    if wrong:
        raise WiringError(f"JSON cannot hold the names of these nodes: {listed(map(repr, wrong))}; it has texts, "
                          "numbers and tuples of them. Rename them.")
    # networkx read and wrote node-link data with "links" before 3.6 and with "edges" since
    links = inspect.signature(nx.node_link_graph).parameters["edges"].default or "links"
    return json.dumps(nx.node_link_data(graph, edges=links)).encode()


def _parse_json(content: bytes) -> nx.DiGraph:
    try:
        data = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"JSON is text in UTF-8, but {error}.") from None
    if not isinstance(data, dict) or not isinstance(data.get("nodes"), list):
        raise InputError('node-link JSON is an object with the lists "nodes" and "edges" (or "links").')
    names = [name for name in ("edges", "links") if name in data]
    if len(names) != 1 or not isinstance(data[names[0]], list):
        raise InputError('node-link JSON has one list of edges, "edges" or "links", got '
                         f"{' and '.join(names) or 'none'}.")
    if data.get("multigraph", False) is not False:
        raise InputError("this is a multigraph; between two nodes of a wiring there is one edge.")
    graph = nx.DiGraph() if data.get("directed", False) is True else nx.Graph()
    nodes = [_item(item, "id") for item in data["nodes"]]
    edges = [_item(item, "source", "target") for item in data[names[0]]]
    _refuse_repeated("node", [node for (node,), _ in nodes if node in graph or graph.add_node(node)])
    graph.add_nodes_from((node, values) for (node,), values in nodes)
    strangers = [node for ends, _ in edges for node in ends if node not in graph]
    if strangers:
        raise InputError(f"edges name {listed(map(repr, strangers))}, which is no node.")
    _refuse_repeated("edge", [ends for ends, _ in edges if graph.has_edge(*ends) or graph.add_edge(*ends)])
    graph.add_edges_from((*ends, values) for ends, values in edges)
    return graph


def _item(item: object, *names: str) -> tuple[tuple[Hashable, ...], dict]:
    """The names that a node or an edge has, and its other values."""
    if not isinstance(item, dict) or any(name not in item for name in names):
        raise InputError(f"expected an object with {' and '.join(map(repr, names))}, got {json.dumps(item)[:80]}.")
    return tuple(_as_tuple(item[name]) for name in names), {k: v for k, v in item.items() if k not in names}


def _as_tuple(name: object) -> Hashable:
    if isinstance(name, list):
        return tuple(map(_as_tuple, name))
    if not isinstance(name, (str, int, float)) or name != name:
        raise InputError("the name of a node must be text, a number or a list of them, got "
                         f"{json.dumps(name)[:80]}.")
    return name


def _refuse_repeated(what: str, repeated: Iterable[object]) -> None:
    repeated = [repr(item) for item in repeated]
    if repeated:
        raise InputError(f"the {what} {listed(repeated)} stands more than once; remove the repetitions.")


FORMATS = {"graphml": _graphml, "gexf": _gexf, "dot": _dot, "json": _json}
READERS = {"graphml": _parse_graphml, "gexf": _parse_gexf, "json": _parse_json}
