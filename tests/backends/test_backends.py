"""Backends: which way auto takes, what is kept of messages, products, derivatives, without numba."""

import os
import subprocess
import sys

import pytest
import torch
from agreement import agreement
from checkout import ROOT
from graphs import STATIC_GENERATORS

import neuralgraph as ng
from neuralgraph.backends import BACKENDS, available
from neuralgraph.errors import InputError


def test_auto_takes_the_dense_way_where_most_edges_are_real_or_work_is_small():
    used = []

    class Recording(ng.backends.Backend):
        def __init__(self, name):
            self.name, self.real = name, ng.backends.create(name)

        def propagate(self, *arguments):
            used.append(self.name)
            return self.real.propagate(*arguments)

    auto = ng.backends.create("auto")
    auto._dense, auto._sparse = Recording("dense"), Recording("sparse")
    for k, side, expected in ((10, 320, "sparse"), (90, 320, "dense"), (10, 2, "dense")):
        network = ng.StaticNeuralGraph(ng.wirings.chain([10, 10]), ng.TopK(k), backend=auto)
        network(torch.randn(1, 10, side, side))
        assert used.pop() == expected and not used


@pytest.mark.parametrize("space", [(), (1,), (7,), (1, 1), (3, 5), (2, 1, 3)])
def test_little_work_is_the_same_product(space, monkeypatch):
    """Values and both derivatives of the way for little work are those of a convolution, and of a sum over nodes."""
    from neuralgraph.backends import dense

    generator = torch.Generator().manual_seed(0)
    matrix, messages = (torch.randn(size, generator=generator, dtype=torch.float64, requires_grad=True)
                        for size in ((5, 4), (3, 4, *space)))
    torch.testing.assert_close(dense._product(matrix, messages), torch.einsum("vu,bu...->bv...", matrix, messages))
    assert torch.autograd.gradcheck(dense._product, (matrix, messages))
    assert torch.autograd.gradgradcheck(dense._product, (matrix, messages))
    few = dense._product(matrix, messages)
    monkeypatch.setattr(dense, "SMALL", 0)
    torch.testing.assert_close(few, dense._product(matrix, messages))


def test_little_work_waits_for_no_other_thread(monkeypatch):
    """A team is asked for where there is work for it: on a busy machine every team costs milliseconds."""
    launch = pytest.importorskip("neuralgraph.kernels.launch")
    asked, run = [], launch._parallel
    monkeypatch.setattr(launch, "_parallel", lambda *arguments: (asked.append(arguments[2]), run(*arguments)))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for side, is_team in ((1, False), (4, False), (48, True)):
            for backend in ("sparse", "auto"):
                net = ng.StaticNeuralGraph(ng.wirings.chain([8] * 5), ng.TopK(120), backend)
                net(torch.randn(8, 8, side, side)).square().sum().backward()
                assert bool(asked) == is_team, (side, backend)
                asked.clear()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("wiring", [ng.wirings.blocks([4, 6, 5, 6, 3]), ng.wirings.chain([4, 6, 5, 6, 3]),
                                    ng.wirings.blocks([4, 6, 5, 3], ng.NodeFunction(receive="norm"))])
@pytest.mark.parametrize("retain", [False, True])
def test_messages_are_joined_once_and_not_kept(wiring, retain):
    """Gradients are those of the dense backend, twice if asked for; nothing of them stays in the graph."""
    networks = {backend: ng.StaticNeuralGraph(wiring, ng.TopK(wiring.num_edges // 2), backend, 0,
                                              dtype=torch.float64) for backend in ("dense", "sparse")}
    x = torch.randn(3, 4, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gradients = {}
    for backend, network in networks.items():
        y = network(x)
        loss = y.square().sum()
        for again in range(1 + retain):
            gradients[backend], = torch.autograd.grad(loss, network.weight,
                                                      retain_graph=retain and not again)
        joints = [node.how[-1] for node in graph_nodes(loss.grad_fn) if hasattr(node, "how")]
        assert len(joints) == (len(network.stages) - 1) * (backend == "sparse") and all(joints)
        assert not any("kept" in joint.cache for joint in joints)
    torch.testing.assert_close(gradients["sparse"], gradients["dense"])


def graph_nodes(node, seen=None):
    """All nodes of an autograd graph."""
    seen = set() if seen is None else seen
    if node is not None and node not in seen:
        seen.add(node)
        for following, _ in node.next_functions:
            graph_nodes(following, seen)
    return seen


def test_torch_compile_leaves_outputs_alone():
    network = ng.StaticNeuralGraph(ng.wirings.blocks([2, 8, 8, 3]), ng.TopK(40), backend="sparse").eval()
    x = torch.randn(2, 2, 6, 6)
    compiled = torch.compile(network, backend="eager")
    torch.testing.assert_close(compiled(x), network(x), rtol=0, atol=0)


def test_without_numba_torch_does_the_sums():
    code = """
import warnings, torch, neuralgraph as ng
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    nets = [ng.StaticNeuralGraph(ng.wirings.blocks([3, 6, 6, 2]), ng.TopK(30), backend=b).double()
            for b in ("sparse", "dense", "auto")]
assert sum("numba" in str(w.message) for w in seen) == 1, seen
x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
outputs = [net(x) for net in nets]
for y in outputs[1:]:
    torch.testing.assert_close(y, outputs[0], rtol=1e-10, atol=1e-10)
for y in outputs:
    y.square().sum().backward()
for net in nets[1:]:
    for p, q in zip(net.parameters(), nets[0].parameters()):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-10, atol=1e-10)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("zeros", [0, 1, 2])
def test_products_pass_gradients_to_hallucinated_edges_and_not_through(backend, zeros, float64):
    """y = w1 z1 w2 z2 of four factors: also where factors are zero, and for what "masked" leaves out."""
    multiply = ng.NodeFunction(aggregate="product")
    weight = torch.tensor([1.5, -2.0, 0.5, -0.25])
    wiring = ng.wirings.from_edges([(i, 4) for i in range(4)], inputs=range(4), outputs=[4],
                                   functions=[ng.NodeFunction()] * 4 + [multiply], weight=weight)
    for gradient in ("ste", "soft_g", "masked"):
        network = ng.StaticNeuralGraph(wiring, ng.TopK(2, gradient=gradient), backend=backend)
        z = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(1))
        z[0, :zeros] = 0
        z.requires_grad_()
        upstream = torch.randn(3, 1, 2, 2)
        y = network(z)
        (y * upstream).sum().backward()
        w, x, g = weight, z.detach(), upstream[:, 0]
        first, second = w[0] * x[:, 0], w[1] * x[:, 1]
        torch.testing.assert_close(y.detach()[:, 0], first * second)
        slopes = [x[:, 0] * second, x[:, 1] * first, x[:, 2] * first * second, x[:, 3] * first * second]
        expected = torch.stack([(slope * g).sum() for slope in slopes])
        expected[2:] *= gradient != "masked"
        torch.testing.assert_close(network.weight.grad, expected)
        to_z = torch.stack([w[0] * second * g, w[1] * first * g, 0 * g, 0 * g], dim=1)
        torch.testing.assert_close(z.grad, to_z)


def test_second_derivatives_are_the_dense_backends_alone():
    """Otherwise a penalty on gradients would miss what is not real, or all, without a word."""
    for backend in available():
        network = ng.StaticNeuralGraph(STATIC_GENERATORS["chain"](), ng.TopK(10), backend=backend)
        x = torch.randn(2, 3, 4, 4, requires_grad=True)
        y = network(x).square().sum()
        if backend == "dense":
            slope, = torch.autograd.grad(y, x, create_graph=True)
            slope.square().sum().backward()
        else:
            with pytest.raises(InputError, match="backend = 'dense'"):
                torch.autograd.grad(y, x, create_graph=True)


def test_batch_norms_of_later_stages_leave_those_of_earlier_ones_alone(float64):
    """Stage 0 has row 1 of the norms, a view of them, and stage 1 rows 0 and 2, a copy."""
    wiring = ng.wirings.from_edges([(1, 0), (1, 2), (0, 3), (2, 3)], inputs=[1], outputs=[3],
                                   functions=[ng.NodeFunction("norm")] * 3 + [ng.NodeFunction()])
    agreement(wiring, "dense", "dnw", 0.5, training=True)
