"""Networks on an accelerator (a make-believe one), and in less than float32."""

import copy

import pytest
import torch
from elsewhere import Elsewhere, move

import neuralgraph as ng
from neuralgraph.backends import available
from neuralgraph.errors import InputError

NETWORKS = {
    "static": lambda **o: ng.StaticNeuralGraph(ng.wirings.blocks([3, 4, 5, 2]), ng.TopK(20), **o),
    "discrete": lambda **o: ng.DiscreteTimeNeuralGraph(
        ng.wirings.complete(9, inputs=3, outputs=2), ng.TopK(40), **o),
    "untied": lambda **o: ng.DiscreteTimeNeuralGraph(
        ng.wirings.complete(9, inputs=3, outputs=2), ng.TopK(40), steps=2, tied=False, **o),
    "continuous": lambda **o: ng.ContinuousTimeNeuralGraph(
        ng.wirings.complete(9, inputs=3, outputs=2), ng.TopK(40), solver="euler", **o),
    "adjoint": lambda **o: ng.ContinuousTimeNeuralGraph(
        ng.wirings.complete(9, inputs=3, outputs=2), ng.TopK(40), solver="midpoint", adjoint=True, **o),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_wirings_are_taken_from_an_accelerator(name):
    network = NETWORKS[name]().eval()
    there = move(copy.deepcopy(network))
    assert there.learned_wiring() == network.learned_wiring()
    assert there.complete_wiring() == network.complete_wiring()
    dead, expected = (ng.analysis.dead_nodes(net.wiring, net.selection().real) for net in (there, network))
    assert torch.equal(dead.no_in, expected.no_in) and torch.equal(dead.no_out, expected.no_out)
    for real_only in (True, False):
        mine, theirs = (ng.to_networkx(net, real_only=real_only) for net in (network, there))
        assert mine.nodes(data=True) == theirs.nodes(data=True)
        assert list(mine.edges(data=True)) == list(theirs.edges(data=True))


@pytest.mark.dgl
@pytest.mark.parametrize("name", NETWORKS)
def test_the_live_graph_of_a_network_on_an_accelerator(name):
    network = NETWORKS[name]().eval()
    mine, theirs = network.graph, move(copy.deepcopy(network)).graph
    for a, b in ((mine.ndata, theirs.ndata), (mine.edata, theirs.edata)):
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", ["static", "discrete", "untied"])
def test_forward_on_an_accelerator(name):
    network = NETWORKS[name]().eval()
    x = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(move(copy.deepcopy(network))(Elsewhere(x)).inner, network(x))


@pytest.mark.dgl
def test_dgl_backend_refuses_an_accelerator():
    network = move(NETWORKS["static"](backend="dgl"))
    with pytest.raises(InputError, match="CPU.*backend='dense'"):
        network(Elsewhere(torch.randn(2, 3, 5, 5)))


def test_input_and_network_are_on_one_device():
    with pytest.raises(InputError, match="x is on cpu but the network on meta"):
        move(NETWORKS["static"]())(torch.randn(2, 3, 5, 5))


def agree(network, twin, x, autocast=None):
    """Output and edge gradients agree as well as half precision can."""
    generator = torch.Generator().manual_seed(2)
    expected = twin(x)
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        y = network(x.to(network.weight.dtype))
    cotangent = torch.randn(y.shape, generator=generator)
    (y.float() * cotangent).sum().backward()
    (expected * cotangent).sum().backward()
    for mine, wanted in ((y, expected), (network.weight.grad, twin.weight.grad)):
        assert torch.cosine_similarity(mine.float().flatten(), wanted.flatten(), dim=0) > 0.95
    return y


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", ng.backends.BACKENDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_small_floats(name, backend, dtype):
    network = NETWORKS[name](backend=backend)
    x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    y = agree(copy.deepcopy(network).to(dtype), network, x)
    assert y.dtype == dtype


@pytest.mark.parametrize("backend", ng.backends.BACKENDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_autocast(name, backend):
    network = NETWORKS[name](backend=backend)
    twin = copy.deepcopy(network)
    x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    agree(network, twin, x, autocast=torch.bfloat16)
    assert network.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("name", NETWORKS)
def test_round_trips_in_double_precision_are_exact(name, tmp_path):
    """Whatever the default type is; values that say more than it can hold are not rounded."""
    network = NETWORKS[name](dtype=torch.float64).eval()
    assert all(p.dtype == torch.float64 for p in network.parameters() if p.is_floating_point())
    with torch.no_grad():
        for value in network.parameters():
            value.add_(torch.rand(value.shape, dtype=torch.float64) / 7)
    ng.wiring.write(network.learned_wiring(), tmp_path / "wiring.graphml")
    for wiring in (network.learned_wiring(), ng.from_networkx(ng.to_networkx(network)),
                   ng.wiring.read(tmp_path / "wiring.graphml")):
        kind, settings = type(network), {"solver": "euler"} if name in ("continuous", "adjoint") else {}
        again = kind(wiring, ng.Complete(), dtype=torch.float64, **settings).eval()
        mine, theirs = (ng.to_networkx(net) for net in (network, again))
        assert dict(mine.edges) == dict(theirs.edges)
        if name != "untied":
            assert dict(mine.nodes) == dict(theirs.nodes)
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    twin = NETWORKS[name](dtype=torch.float64).eval()
    twin.load_state_dict(network.state_dict())
    assert torch.equal(network(x), twin(x))


def test_dtype_draws_the_same_values():
    single, double = (NETWORKS["static"](dtype=dtype, seed=3) for dtype in (None, torch.float64))
    for a, b in zip(single.state_dict().values(), double.float().state_dict().values()):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.int32, "float64", torch.complex64])
def test_bad_dtype(dtype):
    with pytest.raises(InputError, match="dtype must be a real floating-point"):
        NETWORKS["static"](dtype=dtype)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("dims", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", [ng.StaticNeuralGraph, ng.DiscreteTimeNeuralGraph, ng.ContinuousTimeNeuralGraph])
def test_a_gpu_gives_what_the_cpu_gives(kind, dims):
    """Output and all gradients in double precision, and the edges that are chosen."""
    wiring = ng.wirings.blocks([3, 5, 5, 2], dims=dims) if kind is ng.StaticNeuralGraph else \
        ng.wirings.complete(9, inputs=3, outputs=2, dims=dims)
    here = kind(wiring, ng.TopK(30), dtype=torch.float64, dims=dims)
    there = copy.deepcopy(here).cuda()
    x = torch.randn(4, 3, *[5] * dims, dtype=torch.float64)
    results = []
    for network in (here, there):
        y = network(x.to(network.weight.device))
        y.square().sum().backward()
        results.append([y.detach().cpu(), *(p.grad.cpu() for p in network.parameters() if p.grad is not None)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
    assert torch.equal(here.selection().real, there.selection().real.cpu())
    for backend in {"sparse", "dgl"} & set(available()):
        there.backend = backend
        with pytest.raises(InputError, match="CPU.*dense"):
            there(x.cuda())
