"""Eigenvalues of splitting matrices: every route against written formulas and matrices, on digits too."""

import warnings

import networkx as nx
import pytest
import torch
import torch.nn.functional as F
from graphs import random_dag, random_dynamic
from growth import KINDS, batches, disturbed, loss
from hypothesis import given, settings, strategies as st

import neuralgraph as ng
from neuralgraph.growing import Exact, Fast, MiniBatch, split
from neuralgraph.growing.probing import Probe
from neuralgraph.growing.reducing import reduced_network
from neuralgraph.growing.units import Units, find


def written_out(network, data):
    """Splitting matrices by the formula of ReLU behind a batch norm, node by node (methods: S_v of a channel).

    S_v = mean of sum G sigma''(p) c^2 Z Z', with sigma'' that of the softplus of sharpness 3 and G = dL/dr.
    """
    wiring, values = network.wiring, {name: v.detach() for name, v in network.functions.export().items()}
    real, weight, found = network.selection().real, network.weight.detach(), {}
    for x, target in data:
        z, r, p, scale = {}, {}, {}, {}
        for node in range(wiring.num_nodes):
            into = (real & (wiring.dst == node)).nonzero().flatten()
            total = x[:, int(wiring.channel[node])] if wiring.role[node] == 1 else sum(
                (weight[e] * z[int(wiring.src[e])] for e in into), torch.zeros_like(x[:, 0]))
            if wiring.role[node] == 2:
                z[node] = total
                continue
            scale[node] = values["norm_weight"][node] / (values["norm_var"][node] + 1e-5).sqrt()
            p[node] = scale[node] * (total - values["norm_mean"][node]) + values["norm_bias"][node]
            r[node] = p[node].relu().detach().requires_grad_() if not p[node].requires_grad else p[node].relu()
            z[node] = F.conv2d(r[node][:, None], values["kernel"][node][None, None], padding=1)[:, 0]
        y = torch.stack([z[int(node)] for node in wiring.outputs], 1)
        gradients = torch.autograd.grad(loss(y, target), list(r.values()), allow_unused=True)
        for node, g in zip(r, gradients):
            into = (real & (wiring.dst == node)).nonzero().flatten()
            if wiring.role[node] == 1 or not len(into):
                continue
            g = torch.zeros_like(p[node]) if g is None else g
            s = torch.sigmoid(3 * p[node].detach())
            sources = torch.stack([z[int(wiring.src[e])].detach() for e in into])
            bent = (g * 3 * s * (1 - s) * scale[node]**2)
            found[node] = found.get(node, 0) + torch.einsum("bhw,ibhw,jbhw->ij", bent, sources, sources) / len(data)
    return found


def test_exact_eigenpairs_are_those_of_the_written_formula():
    network = disturbed(ng.StaticNeuralGraph(ng.wirings.blocks([2, 3, 3, 2]), ng.Complete(), dtype=torch.float64))
    data = batches()
    units = find(network)
    values, vectors = Exact().solve(Probe(network, loss, []), units, lambda: data)
    matrices = written_out(network, data)
    assert list(matrices) == units.parts[0].nodes.tolist()
    for number, s in enumerate(matrices.values()):
        expected, basis = torch.linalg.eigh(s)
        torch.testing.assert_close(values[number], expected[0], rtol=1e-8, atol=1e-12)
        mine = vectors[units.owner == number]
        torch.testing.assert_close(mine * mine[0].sign(), basis[:, 0] * basis[0, 0].sign(), rtol=1e-5, atol=1e-7)


# 4 feeds nothing, 3 only 4, 5 is fed by nothing but read, 6 and 7 are as they should be
DEAD_ENDS = ng.wirings.from_edges(
    [(0, 3), (0, 4), (1, 3), (3, 4), (1, 5), (5, 7), (0, 6), (1, 6), (6, 7), (2, 7), (7, 8), (4, 8)], inputs=[0, 1, 2],
    outputs=[8])


@pytest.mark.parametrize("route", ["exact", "fast"])
def test_dead_nodes_have_the_eigenvalue_0_and_the_others_their_own(route):
    network = disturbed(ng.StaticNeuralGraph(DEAD_ENDS, ng.TopK(10), dtype=torch.float64))
    absent = torch.tensor([(1, 5), (4, 8)])
    edges = torch.stack([network.wiring.src, network.wiring.dst], 1)
    with torch.no_grad():
        network.weight[(edges[:, None] == absent).all(2).any(1)] = 1e-9
    data = batches(inputs=3)
    _, report = split(network, data, loss, 0.99, route=route)
    matrices = written_out(network, data)
    assert list(matrices) == [3, 4, 6, 7] == [int(node.label.split()[1]) for node in report.nodes]
    for node, s in zip(report.nodes, matrices.values()):
        assert node.eigenvalue == pytest.approx(float(torch.linalg.eigvalsh(s)[0]), rel=1e-6, abs=1e-15)
    dead, alive = report.nodes[:2], report.nodes[2:]
    assert all(node.eigenvalue == node.gain == 0.0 and not node.split and node.cost > 0 for node in dead)
    assert all(node.eigenvalue != 0 for node in alive)


@given(seed=st.integers(0, 10**9))
@settings(max_examples=15, deadline=None)
def test_nodes_that_no_output_depends_on_are_left_out(seed):
    """The reduced network has the outputs of the whole one and, by networkx, none but the ancestors of outputs."""
    for wiring, kind in ((random_dag(seed), ng.StaticNeuralGraph), (random_dynamic(seed), ng.DiscreteTimeNeuralGraph)):
        options = {} if kind is ng.StaticNeuralGraph else {"tied": bool(seed % 2), "steps": 3}
        network = disturbed(kind(wiring, ng.TopK(max(1, wiring.num_edges // 2)), seed=seed, dtype=torch.float64, **options))
        reduced, edges = reduced_network(network)
        x = torch.randn(2, len(wiring.inputs), 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(reduced(x), network(x), rtol=1e-9, atol=1e-9)
        graph = nx.DiGraph(ng.to_networkx(network))
        names = [wiring.label(node) for node in wiring.outputs.tolist()]
        live = set(names).union(*(nx.ancestors(graph, name) for name in names))
        kept = live | {wiring.label(node) for node in wiring.inputs.tolist()}
        assert reduced.wiring.num_nodes == len(kept)
        ends = {(wiring.label(int(wiring.src[e])), wiring.label(int(wiring.dst[e]))) for e in edges}
        assert ends == {(u, v) for u, v in graph.edges if v in live}


def test_mini_batches_agree_with_the_exact_route():
    network = disturbed(ng.StaticNeuralGraph(ng.wirings.blocks([2, 4, 4, 2]), ng.Complete(), dtype=torch.float64))
    data, units = batches(2, side=4), find(network)
    exact, direction = Exact().solve(Probe(network, loss, []), units, lambda: data)
    found, v = MiniBatch(epochs=2, lr=5e-3).solve(Probe(network, loss, []), units, lambda: data * 50)
    torch.testing.assert_close(found, exact, rtol=0.02, atol=0.01 * float(exact.abs().max()))
    cosine = units.total(v * direction).abs()
    assert (cosine[exact < -0.1 * exact.abs().max()] > 0.98).all()


def test_routes_say_when_they_have_not_converged():
    network = disturbed(ng.StaticNeuralGraph(ng.wirings.blocks([2, 4, 4, 2]), ng.Complete(), dtype=torch.float64))
    data, units = batches(2, side=4), find(network)
    for route in (MiniBatch(epochs=1), Fast(epochs=1, vectors=1)):
        with pytest.warns(UserWarning, match="not converged.*route='exact'"):
            route.solve(Probe(network, loss, []), units, lambda: data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MiniBatch(epochs=2, lr=5e-3).solve(Probe(network, loss, []), units, lambda: data * 50)


class Matrices:
    """Given symmetric matrices in the place of those of a model."""

    def __init__(self, matrices, noise=0.0):
        self.matrices, self.noise, self.passes, self.leaves = matrices, noise, 0, {}
        self.owner = torch.arange(len(matrices)).repeat_interleave(torch.tensor([len(s) for s in matrices]))
        self.number = len(matrices)

    total = Units.total

    def spread(self, values, leaves):
        return values

    def gather(self, values):
        return values

    def products(self, x, target):
        self.passes += x
        whole = torch.block_diag(*self.matrices)
        return 0.0, lambda v: whole @ v if x else v * 0


def test_fast_route_on_written_matrices():
    """Exact for small ones, without one pass too many; near it for large ones, as of a convolution; 0 for 0."""
    generator = torch.Generator().manual_seed(0)
    small = [torch.randn(d, d, generator=generator, dtype=torch.float64) for d in (1, 2, 5, 6)]
    small = [s + s.T for s in small] + [torch.zeros(3, 3, dtype=torch.float64), -torch.eye(4, dtype=torch.float64)]
    given = Matrices(small)
    values, vectors = Fast().solve(given, given, lambda: [(1, None), (0, None)])  # the mean of two batches
    for number, s in enumerate(small):
        expected = torch.linalg.eigvalsh(s)[0] / 2
        v = vectors[given.owner == number]
        torch.testing.assert_close(values[number], expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(s @ v / 2, expected * v, rtol=1e-6, atol=1e-6)
        assert float(v.norm()) == pytest.approx(1.0) or not s.any()
    assert given.passes <= 3
    basis = torch.linalg.qr(torch.randn(200, 200, generator=generator, dtype=torch.float64))[0]
    spectrum = torch.cat([-torch.logspace(0, -4, 100), torch.logspace(-4, 0, 100)]).double()
    given = Matrices([basis * spectrum @ basis.T])
    value, v = Fast(epochs=20).solve(given, given, lambda: [(1, None)])
    assert float(value) == pytest.approx(-1.0, rel=1e-5) and float((v @ basis[:, 0]).abs()) > 0.999


@pytest.fixture(scope="module")
def digits():
    """The recipe's classifier after some steps, and a few images in three batches."""
    model = ng.models.create("tiny-static", k=300, num_classes=10, in_channels=1, image_size=8, seed=0)
    data = ng.data.load("digits")
    x, y = data.normalise(data.train_images[:96]), data.train_labels[:96]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(10):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, list(zip(x.split(32), y.split(32)))


def test_fast_and_exact_routes_agree_on_digits(digits):
    """In eigenvalue and in what is split, by default settings and without a warning."""
    model, data = digits
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exact, fast = (split(model, data, F.cross_entropy, route=route)[1] for route in ("exact", "fast"))
    values, found = (torch.tensor([node.eigenvalue for node in report.nodes]) for report in (exact, fast))
    torch.testing.assert_close(found, values, rtol=1e-3, atol=1e-5 * float(values.abs().max()))
    assert [node.label for node in exact.split] == [node.label for node in fast.split] and len(fast.split) > 10


def test_a_part_of_the_batches(digits):
    model, data = digits
    part, given = (split(model, data[:number], F.cross_entropy, num_batches=asked)[1] for number, asked in ((3, 1), (1, None)))
    assert part == given
    with pytest.raises(ng.errors.InputError, match="num_batches must be"):
        split(model, data, F.cross_entropy, num_batches=0)


def test_the_report_says_how_far_prediction_and_measurement_differ(digits):
    model, data = digits
    _, report = split(model, data, F.cross_entropy, num_batches=1)
    assert report.smoothed and report.agreement == report.measured_change / report.predicted_change
    assert f"measured / predicted = {report.agreement:.3g}" in str(report) and "a kink" in str(report)
    _, smooth = split(disturbed(KINDS["batch"]()), batches(), loss, 0.99, epsilon=1e-3)
    assert not smooth.smoothed and smooth.agreement == pytest.approx(1.0, rel=1e-3) and "a kink" not in str(smooth)
