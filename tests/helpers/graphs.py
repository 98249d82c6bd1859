"""Random static wirings for property tests, and the generators' own."""

import random
from importlib.util import find_spec

import torch
from hypothesis import strategies as st

import neuralgraph as ng
from neuralgraph._dgl import load
from neuralgraph.testing.graphs import BATCH, FUNCTIONS, PADDED, STATIC_GENERATORS, acts_on, random_dag
from neuralgraph.wiring.ends import Entries
from neuralgraph.wiring.graph import Graph

__all__ = ["BATCH", "FUNCTIONS", "LINE", "PADDED", "STATIC_GENERATORS", "acts_on", "bare", "by_destination", "graph_with",
           "drawn", "k_of", "learned", "random_dag", "random_dags", "random_dynamic", "strided_input"]


def k_of(name, k):
    """k for the selector of that name, None for one that takes none."""
    return None if ng.selectors.k_is(name) == "found" else k


random_dags = st.integers(0, 10**9).map(random_dag)

LINE = ([0, 1], [1, 2])


def bare(edges, num_nodes):
    """A graph of DGL without data; where that is not installed, one as wirings hold it."""
    if find_spec("dgl") is not None:
        return load("a test").graph(edges, num_nodes=num_nodes)
    return Graph(Entries(*(torch.as_tensor(ends, dtype=torch.long) for ends in edges), (num_nodes, num_nodes)), num_nodes)


def graph_with(edges, roles, **ndata):
    """A graph with these roles and node data."""
    graph = bare(edges, len(roles))
    graph.ndata["role"] = torch.tensor(roles)
    graph.ndata["block"] = torch.zeros(len(roles), dtype=torch.long)
    for name, value in ndata.items():
        graph.ndata[name] = torch.tensor(value)
    return graph


def learned(wiring, seed=0):
    """A network on half of the edges, with moments as if it had been trained."""
    network = ng.StaticNeuralGraph(wiring, ng.RandomGraph(max(1, wiring.num_edges // 2)), seed=seed)
    with torch.no_grad():
        for name, buffer in network.functions.named_buffers():
            buffer += torch.rand(buffer.shape, generator=torch.Generator().manual_seed(seed))
    return network.eval()


def by_destination(wiring):
    """The same wiring with its edges sorted by destination, then source."""
    order = (wiring.dst * wiring.num_nodes + wiring.src).argsort()
    graph = Graph(Entries(*wiring.ends.of(order), (wiring.num_nodes, wiring.num_nodes)), wiring.num_nodes)
    graph.ndata.update(wiring.data.ndata)
    graph.edata.update({name: value[order] for name, value in wiring.data.edata.items()})
    return ng.Wiring(graph, labels=wiring.labels)


def random_dynamic(seed, dims=2):
    """A wiring with cycles, inputs that hold and others, mixed functions that keep the size."""
    rng = random.Random(seed)
    inputs, total = rng.randint(1, 3), rng.randint(4, 8)
    known = [f for f in (*FUNCTIONS, PADDED, BATCH) if acts_on(f, dims) and f.send_stride == f.receive_stride == 1
             and f.norm != "instance"]
    edges = {(u, v) for u in range(total) for v in range(rng.randint(0, 1) * inputs, total)
             if rng.random() < 0.5 and v < total}
    edges |= {(u, u + 1) for u in range(total - 1) if u + 1 >= inputs} | {(u, inputs) for u in range(inputs)}
    return ng.wirings.from_edges(sorted(edges), inputs=range(inputs), outputs=[total - 1],
                                 functions=[rng.choice(known) for _ in range(total)])


def drawn(network, seed=0, zeros=0.0):
    """The network with all its learned values drawn, a share of scales 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*network.functions.named_parameters(), *network.functions.named_buffers()]:
            new = torch.rand if "var" in name else torch.randn
            value.copy_(new(value.shape, generator=generator, dtype=value.dtype) + 0.5 * ("var" in name))
            if name.endswith("weight"):
                value[torch.rand(len(value), generator=generator) < zeros] = 0
    return network


def strided_input():
    """An input node that is updated, by a strided convolution of what arrives."""
    return ng.wirings.from_edges([(0, 0), (0, 1)], inputs=[0], outputs=[1],
                                 functions=[ng.NodeFunction(receive="conv", stride=2), ng.NodeFunction()])
