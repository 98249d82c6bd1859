"""Random static wirings for property tests, and the generators' own."""

import random

import torch
from hypothesis import strategies as st

import neuralgraph as ng
from neuralgraph import NodeFunction
from neuralgraph._dgl import dgl

FUNCTIONS = [
    NodeFunction("norm activation conv"),
    NodeFunction("norm activation conv", norm="instance", kernel_size=5),
    NodeFunction("activation conv", activation="tanh"),
    NodeFunction("norm activation conv", stride=2, norm="instance"),
    NodeFunction(receive="norm activation conv", activation="silu"),
    NodeFunction("conv", "norm activation norm", norm="instance"),
    NodeFunction(receive="bias activation"),
    NodeFunction("bias", "bias"),
    NodeFunction("activation", activation="tanh", aggregate="product"),
    NodeFunction(),
]


PADDED = NodeFunction("conv activation", stride=2, zero_pad=True)
BATCH = NodeFunction("activation", "norm", activation="tanh")


def acts_on(function, dims):
    """Whether all its operations can act on maps of so many dimensions."""
    return dims > 0 or not (function.kernel_size or function.norm == "instance")


def random_dag(seed, max_hidden=9, num_inputs=None, instance_up_to=2, dims=2):
    """A static wiring with mixed node functions, sizes and strides, nodes, edges and channels shuffled.

    Instance norms, which need maps of more than one pixel, stand where maps are at most ``instance_up_to``
    times smaller than the input.
    """
    rng = random.Random(seed)
    known = FUNCTIONS if dims == 2 else [f for f in (*FUNCTIONS, PADDED, BATCH) if acts_on(f, dims)]
    drawn, num_outputs = rng.randint(1, 3), rng.randint(1, 3)
    num_inputs = num_inputs or drawn
    hidden = rng.randint(0, max_hidden)
    chosen, scale, message, edges = [], [], [], []
    for node in range(num_inputs + hidden + num_outputs):
        is_output = node >= num_inputs + hidden
        earlier = list(range(min(node, num_inputs + hidden)))
        if node < num_inputs:
            mine = 1
        else:
            mine = target if is_output else rng.choice([message[u] for u in earlier])
            possible = [u for u in earlier if message[u] == mine]
            parents = rng.sample(possible, rng.randint(1, len(possible)))
            edges += [(u, node) for u in parents]
        function = rng.choice([f for f in known if not (is_output and f.send_stride > 1)
                               and (f.norm != "instance" or mine <= instance_up_to)])
        chosen.append(function)
        scale.append(mine)
        receive = function.receive_stride if node >= num_inputs else 1
        message.append(mine * receive * function.send_stride)
        if node == num_inputs + hidden - 1:
            target = rng.choice(message)
    total = len(chosen)
    order = list(range(total))
    rng.shuffle(order)
    rng.shuffle(edges)
    place = {old: new for new, old in enumerate(order)}
    return ng.wirings.from_edges(
        [(place[u], place[v]) for u, v in edges],
        inputs=[place[v] for v in range(num_inputs)],
        outputs=[place[v] for v in range(num_inputs + hidden, total)],
        functions=[chosen[old] for old in order],
    )


def k_of(name, k):
    """k for the selector of that name, None for one that takes none."""
    return None if ng.selectors.k_is(name) == "found" else k


random_dags = st.integers(0, 10**9).map(random_dag)

SMALL = NodeFunction("norm activation conv", norm="instance")
STATIC_GENERATORS = {
    "blocks": lambda: ng.wirings.blocks([3, 4, 5, 2]),
    "blocks-instance": lambda: ng.wirings.blocks([3, 4, 4, 2], SMALL),
    "blocks-strided": lambda: ng.wirings.blocks([2, 3, 3, 4], input_stride=2),
    "blocks-receive": lambda: ng.wirings.blocks([2, 3, 3, 2], FUNCTIONS[4]),
    "chain": lambda: ng.wirings.chain([3, 4, 2]),
    "chain-mlp": lambda: ng.wirings.chain([3, 6, 5, 2], FUNCTIONS[6]),
    "complete_dag": lambda: ng.wirings.complete_dag(9, inputs=2, outputs=3),
    "from_edges": lambda: ng.wirings.from_edges([(0, 1), (1, 3), (0, 3), (0, 2)],
                                                inputs=[0], outputs=[2, 3]),
}

LINE = ([0, 1], [1, 2])


def graph_with(edges, roles, **ndata):
    """A DGL graph with these roles and node data."""
    graph = dgl.graph(edges, num_nodes=len(roles))
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
    graph = dgl.graph((wiring.src[order], wiring.dst[order]), num_nodes=wiring.num_nodes)
    graph.ndata.update(wiring.graph.ndata)
    graph.edata.update({name: value[order] for name, value in wiring.graph.edata.items()})
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
