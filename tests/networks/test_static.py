"""Static networks on every backend against the plain reference, in double precision."""

import copy

import networkx as nx
import pytest
import torch
from agreement import SIZES, agreement
from graphs import STATIC_GENERATORS, random_dag
from hypothesis import given, settings, strategies as st
from precision import double_precision

import neuralgraph as ng
from neuralgraph.backends import BACKENDS
from neuralgraph.errors import InputError, SelectionError, UnknownNameError, WiringError
from neuralgraph.testing import check_backend
from neuralgraph.testing.backends import SELECTORS, perturb
from neuralgraph.testing.reference import edge_gradient, node_values, static_forward


@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_pass_the_shipped_check(backend):
    """Every generator, selector and mode, and random graphs, against the reference."""
    check_backend(backend)


@pytest.mark.parametrize("backend", BACKENDS)
@given(seed=st.integers(0, 10**9), k_fraction=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
       selector=st.sampled_from(list(SELECTORS)), training=st.booleans(),
       size=st.sampled_from([(1, 1), (5, 4), (7, 8)]), batch=st.integers(2, 3))
def test_random_dags_agree_with_reference(backend, seed, k_fraction, selector, training, size,
                                          batch):
    wiring = random_dag(seed, instance_up_to=0 if size == (1, 1) else 2)
    agreement(wiring, backend, selector, k_fraction, training, size, batch, tolerance=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@given(seed=st.integers(0, 10**9), k_fraction=st.sampled_from([0.0, 0.3, 0.6, 1.0]), dims=st.sampled_from([0, 1, 3]),
       selector=st.sampled_from(list(SELECTORS)), training=st.booleans(), batch=st.integers(2, 3))
@settings(max_examples=20)
def test_random_dags_of_any_dimensions_agree_with_reference(backend, seed, k_fraction, dims, selector, training,
                                                            batch):
    agreement(random_dag(seed, dims=dims), backend, selector, k_fraction, training, SIZES[dims], batch, 1e-9)


def test_dimensions_are_checked_and_shown():
    unit = ng.NodeFunction(receive="bias activation")
    for dims, shape in ((0, r"\(batch, 3\)"), (1, r"\(batch, 3, length\)"),
                        (3, r"\(batch, 3, depth, height, width\)")):
        network = ng.StaticNeuralGraph(ng.wirings.chain([3, 4, 2], unit), ng.TopK(10), dims=dims)
        assert network.dims == dims and f"dims={dims}" in repr(network)
        for wrong in {0, 1, 2, 3} - {dims}:
            with pytest.raises(InputError, match=f"x of shape {shape}.*got"):
                network(torch.zeros(2, 3, *[4] * wrong))
    assert "dims" not in repr(ng.StaticNeuralGraph(ng.wirings.chain([3, 4, 2], unit), ng.TopK(10)))
    for dims in (4, -1, True, "2", None):
        with pytest.raises(InputError, match="dims, the dimensions of a map, must be 0"):
            ng.StaticNeuralGraph(ng.wirings.chain([3, 4, 2], unit), ng.TopK(10), dims=dims)
    for function in (ng.NodeFunction("conv"), ng.NodeFunction("norm", norm="instance")):
        with pytest.raises(WiringError, match="dims=0"):
            ng.StaticNeuralGraph(ng.wirings.chain([3, 4, 2], function), ng.TopK(10), dims=0)


@pytest.mark.parametrize("dims", SIZES)
def test_learned_wirings_of_any_dimensions_give_the_same_network(dims):
    function = ng.NodeFunction("norm activation conv" if dims else "norm activation bias")
    network = ng.StaticNeuralGraph(ng.wirings.blocks([3, 4, 2], function), ng.TopK(12), dims=dims).eval()
    perturb(network)
    x = torch.randn(2, 3, *SIZES[dims])
    again = ng.StaticNeuralGraph(network.learned_wiring(), ng.Complete(), dims=dims).eval()
    torch.testing.assert_close(again(x), network(x), rtol=1e-6, atol=1e-6)


@given(seed=st.integers(0, 10**6))
def test_node_and_edge_order_do_not_matter(seed):
    with double_precision():
        wiring = random_dag(seed)
        network = ng.StaticNeuralGraph(wiring, ng.Complete()).eval()
        perturb(network)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(wiring.num_nodes, generator=generator)
        # inputs and outputs are the channels, so they keep their order among themselves
        for role in (wiring.inputs, wiring.outputs):
            order[torch.isin(order, role)] = role
        graph = ng.to_networkx(network)
        edges = list(graph.edges(data=True))
        shuffled = nx.DiGraph()
        shuffled.add_nodes_from((node, graph.nodes[node]) for node in order.tolist())
        shuffled.add_edges_from(edges[i] for i in torch.randperm(len(edges), generator=generator))
        other = ng.StaticNeuralGraph(ng.from_networkx(shuffled), ng.Complete()).eval()
        x = torch.randn(2, len(wiring.inputs), 5, 5, generator=generator)
        torch.testing.assert_close(other(x), network(x), rtol=1e-11, atol=1e-11)


def test_batch_composition_does_not_matter_in_evaluation(float64):
    network = ng.StaticNeuralGraph(STATIC_GENERATORS["blocks"](), ng.TopK(20)).eval()
    x = torch.randn(6, 3, 8, 8)
    torch.testing.assert_close(network(x)[2:4], network(x[2:4]), rtol=1e-12, atol=1e-12)


def test_gradient_passes_to_but_not_through_hallucinated_edges(float64):
    """Perturbing weights below the threshold changes no output and no node gradient."""
    wiring = STATIC_GENERATORS["blocks-instance"]()
    network = ng.StaticNeuralGraph(wiring, ng.TopK(42))
    other = copy.deepcopy(network)
    real = network.selection().real
    with torch.no_grad():
        other.weight[~real] *= 0.5
    results = []
    for net in (network, other):
        x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
        y = net(x)
        y.square().sum().backward()
        results.append([y, x.grad] + [p.grad for p in net.functions.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results))
    assert (network.weight.grad[~real] != 0).sum() > 0.5 * (~real).sum()
    assert torch.equal(network.weight.grad, other.weight.grad)


@pytest.mark.parametrize("backend", BACKENDS)
def test_straight_through_step_is_algorithm_1(backend, float64):
    """One SGD step on w equals w_uv + <Z_u, -a dL/dI_v> on all candidates."""
    wiring = STATIC_GENERATORS["complete_dag"]()
    network = ng.StaticNeuralGraph(wiring, ng.TopK(12), backend=backend)
    before, real = network.weight.detach().clone(), network.selection().real
    x = torch.randn(3, 2, 5, 5)
    y, sums, messages = static_forward(wiring, node_values(network), before * real, x, True)
    y.tanh().sum().backward()
    optimizer = torch.optim.SGD([network.weight], lr=0.3)
    network(x).tanh().sum().backward()
    optimizer.step()
    expected = before - 0.3 * edge_gradient(wiring, sums, messages, before * real)
    torch.testing.assert_close(network.weight.detach(), expected, rtol=1e-11, atol=1e-11)


def test_selection_once_per_forward_and_cached_in_evaluation(monkeypatch):
    network = ng.StaticNeuralGraph(STATIC_GENERATORS["blocks"](), ng.TopK(10))
    calls = []
    original = ng.TopK.select
    monkeypatch.setattr(ng.TopK, "select", lambda self, w: calls.append(1) or original(self, w))
    x = torch.randn(2, 3, 4, 4)
    network(x), network(x)
    assert len(calls) == 2
    network.eval()
    network(x), network(x), network.selection()
    assert len(calls) == 3
    for change in (lambda: network.weight.data.neg_(),  # leaves no trace in the version counter
                   lambda: network.load_state_dict({**network.state_dict(), "weight": network.weight * 2}),
                   lambda: setattr(network.selector, "k", 11)):
        change()
        network(x), network(x)
    assert len(calls) == 6
    assert network.selection().real.sum() == 11


@pytest.mark.dgl
def test_forward_leaves_graph_and_wiring_alone():
    network = ng.StaticNeuralGraph(STATIC_GENERATORS["blocks"](), ng.TopK(10), backend="dgl")
    mine = network.wiring.graph
    keys, values = set(mine.ndata), {k: v.clone() for k, v in network.wiring.graph.ndata.items()}
    mine.ndata["role"][:] = 7
    mine.add_edges(0, 5)
    network(torch.randn(2, 3, 4, 4)).sum().backward()
    after = network.wiring.graph
    assert set(after.ndata) == keys and not after.edata
    assert all(torch.equal(after.ndata[k], values[k]) for k in keys)
    assert after.num_edges() == network.wiring.num_edges == len(network.weight)


@pytest.mark.dgl
def test_live_graph_runs_update_all():
    """A user's own message passing on net.graph computes the sums of the first hidden block."""
    import dgl.function as fn

    network = ng.StaticNeuralGraph(ng.wirings.chain([3, 4, 2]), ng.TopK(9), backend="dgl").eval()
    x = torch.randn(1, 3, 5, 5)
    graph = network.graph
    messages = network.functions.send(0, slice(0, 3), x)
    graph.ndata["z"] = torch.zeros(9, 25)
    graph.ndata["z"][:3] = messages[0].flatten(1)
    graph.edata["w"] = (graph.edata["weight"] * graph.edata["real"]).detach().unsqueeze(1)
    graph.update_all(fn.u_mul_e("z", "w", "m"), fn.sum("m", "total"))
    stage = network.stages[1]
    expected = network.backend.propagate(stage, messages, network.selection())
    torch.testing.assert_close(graph.ndata["total"][stage.nodes].view(1, 4, 5, 5), expected)
    assert torch.equal(graph.ndata["kernel"][:3], network.functions.groups[0].send[2].weight[:3, 0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_edges_and_all_edges(backend, float64):
    wiring = STATIC_GENERATORS["blocks"]()
    x = torch.randn(2, 3, 5, 5)
    none = ng.StaticNeuralGraph(wiring, ng.TopK(0), backend=backend)
    assert torch.equal(none(x), torch.zeros(2, 2, 5, 5))
    none(x).sum().backward()
    every = ng.StaticNeuralGraph(wiring, ng.TopK(wiring.num_edges), backend=backend)
    complete = ng.StaticNeuralGraph(wiring, ng.Complete(), backend=backend)
    torch.testing.assert_close(every(x), complete(x), rtol=0, atol=0)


@pytest.mark.parametrize("weighted", [True, False])
def test_multilayer_perceptron(float64, weighted):
    """A chain of biased units is torch's own MLP."""
    function = ng.NodeFunction(receive="bias activation")
    wiring = ng.wirings.chain([4, 6, 5, 3], function)
    network = ng.StaticNeuralGraph(wiring, ng.Complete())
    perturb(network)
    group = network.functions.groups[int(wiring.function[wiring.block == 1][0])]
    bias = group.receive[0].bias.detach()
    sizes, edge, unit, h = [4, 6, 5, 3], 0, 4, torch.randn(7, 4)
    x = h[:, :, None, None]
    for before, after in zip(sizes, sizes[1:]):
        matrix = network.weight[edge:edge + before * after].view(after, before)
        h = h @ matrix.T
        edge += before * after
        if after != 3:
            h = torch.relu(h + bias[unit:unit + after])
            unit += after
    torch.testing.assert_close(network(x)[:, :, 0, 0], h, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make, message", [
    (lambda: ng.wirings.from_edges([(0, 1), (1, 2), (2, 1), (2, 3)], inputs=[0], outputs=[3]),
     r"cycles, but this wiring has (1 -> 2 -> 1|2 -> 1 -> 2)"),
    (lambda: ng.wirings.from_edges([(0, 1), (1, 1), (1, 2)], inputs=[0], outputs=[2]), "1 -> 1"),
    (lambda: ng.wirings.from_edges([(0, 1), (1, 0), (1, 2)], inputs=[0], outputs=[2]),
     "input node has no parents.*1 -> 0"),
    (lambda: ng.wirings.from_edges([(0, 1), (1, 2)], inputs=[0], outputs=[1, 2]),
     "output node has no children.*1 -> 2"),
    (lambda: ng.wirings.complete(5, inputs=1, outputs=1), "input node has no parents"),
    (lambda: ng.wirings.from_edges([(0, 1), (1, 2), (0, 3)], inputs=[0], outputs=[2, 3],
                                   functions={1: ng.NodeFunction("conv", stride=2)}),
     "outputs must have one size"),
])
def test_not_static(make, message):
    with pytest.raises(WiringError, match=message):
        ng.StaticNeuralGraph(make(), ng.Complete())


@pytest.mark.parametrize("x, message", [
    (torch.zeros(2, 4, 5, 5), r"\(batch, 3, height, width\).*got \(2, 4, 5, 5\)"),
    (torch.zeros(3, 5, 5), r"got \(3, 5, 5\)"),
    (torch.zeros(0, 3, 5, 5), "at least one sample"),
    (torch.zeros(2, 3, 0, 5), "at least one sample and one pixel"),
    (torch.zeros(2, 3, 5, 5, dtype=torch.uint8), "integer images need"),
    (torch.zeros(2, 3, 5, 5, dtype=torch.float64), "x is torch.float64"),
    ([[1.0]], "got list"),
])
def test_bad_input(x, message):
    network = ng.StaticNeuralGraph(STATIC_GENERATORS["blocks"](), ng.TopK(10))
    with pytest.raises(InputError, match=message):
        network(x)


def test_bad_construction():
    wiring = STATIC_GENERATORS["blocks"]()
    with pytest.raises(InputError, match="neuralgraph.Wiring"):
        ng.StaticNeuralGraph(wiring.data, ng.TopK(3))
    with pytest.raises(InputError, match="selector such as"):
        ng.StaticNeuralGraph(wiring, "dnw")
    with pytest.raises(UnknownNameError, match="did you mean 'dense'"):
        ng.StaticNeuralGraph(wiring, ng.TopK(3), backend="dens")
    with pytest.raises(InputError, match="name of a backend"):
        ng.StaticNeuralGraph(wiring, ng.TopK(3)).backend = 3
    with pytest.raises(InputError, match="integer seed"):
        ng.StaticNeuralGraph(wiring, ng.TopK(3), seed="a")
    selector = ng.TopK(3)
    ng.StaticNeuralGraph(wiring, selector)
    with pytest.raises(SelectionError, match="already serves"):
        ng.StaticNeuralGraph(wiring, selector)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_diverged_weights(value):
    network = ng.StaticNeuralGraph(STATIC_GENERATORS["blocks"](), ng.TopK(10))
    network.weight.data[4] = value
    with pytest.raises(SelectionError, match="edge 4.*diverged"):
        network(torch.zeros(2, 3, 4, 4))


def test_seed_decides_and_global_state_is_untouched():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    make = lambda seed: ng.StaticNeuralGraph(STATIC_GENERATORS["blocks"](), ng.RandomGraph(9), seed=seed)
    a, b, c = make(1), make(1), make(2)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values()))
    assert not torch.equal(a.weight, c.weight)
    assert not torch.equal(a.selector.real, c.selector.real)


def test_initial_weights_follow_the_authors():
    network = ng.StaticNeuralGraph(ng.wirings.blocks([20, 30, 30, 10]), ng.TopK(9))
    bound = (20 + 30 + 30) ** -0.5
    assert 0.99 * bound < network.weight.abs().max() < bound
    kernel = next(op for name, op, _ in network.functions.groups[0].learned() if name == "kernel")
    assert 0.95 / 3 < kernel.weight.abs().max() < 1 / 3


def test_batch_norm_needs_more_than_one_value():
    network = ng.StaticNeuralGraph(STATIC_GENERATORS["blocks"](), ng.TopK(10))
    with pytest.raises(InputError, match="larger batch"):
        network(torch.zeros(1, 3, 1, 1))
    assert network.eval()(torch.zeros(1, 3, 1, 1)).shape == (1, 2, 1, 1)


@pytest.mark.parametrize("generator", STATIC_GENERATORS)
def test_deepcopy_and_state_dict(generator):
    network = ng.StaticNeuralGraph(STATIC_GENERATORS[generator](), ng.RandomGraph(3)).eval()
    x = torch.randn(2, network._inputs, 6, 6)
    twin = copy.deepcopy(network)
    fresh = ng.StaticNeuralGraph(STATIC_GENERATORS[generator](), ng.RandomGraph(3), seed=9).eval()
    fresh.load_state_dict(network.state_dict())
    assert torch.equal(twin(x), network(x)) and torch.equal(fresh(x), network(x))
