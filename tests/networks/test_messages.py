"""Messages of static networks: where they are in a pool all is as without one, and less is copied and kept."""

import copy
import pickle

import pytest
import torch
from agreement import SIZES
from graphs import random_dag
from hypothesis import given, settings, strategies as st

import neuralgraph as ng
from neuralgraph.backends import BACKENDS
from neuralgraph.networks.messages import _most_open
from neuralgraph.testing import check_network
from neuralgraph.testing.backends import SELECTORS, perturb

SMOOTH = ng.NodeFunction("norm activation", activation="tanh")


def layered(dims=0, backend="dense"):
    """A network whose stages all read messages in a row."""
    wiring = ng.wirings.blocks([3, 4, 5, 4, 2], *[SMOOTH] * (dims == 0))
    return ng.StaticNeuralGraph(wiring, ng.TopK(40), backend, dims=dims, dtype=torch.float64)


def gathered():
    """A network whose stages read messages that stand apart, in a pool."""
    wiring = ng.wirings.from_edges([(0, 1), (0, 2), (1, 2), (0, 3), (2, 3), (1, 4), (3, 4), (2, 5), (4, 5)], inputs=[0], outputs=[5],
                                   functions=[SMOOTH] * 6)
    return pooled(ng.StaticNeuralGraph(wiring, ng.TopK(8), "dense", dims=0, dtype=torch.float64))


def pooled(network, is_pooled=True):
    """The network with all messages, or none, in pools."""
    network._places = copy.copy(network._places)
    network._places.pooled = network._places.crowded = set(network._places.rows) if is_pooled else set()
    return network


@pytest.fixture(autouse=True)
def leaves_torch_alone():
    yield
    torch.use_deterministic_algorithms(False)


def data(network, batch=4, side=5):
    shape = batch, len(network.wiring.inputs), *[side] * network.dims
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("backend", BACKENDS)
@given(seed=st.integers(0, 10**9), share=st.sampled_from([0.0, 0.3, 1.0]), dims=st.sampled_from(sorted(SIZES)),
       selector=st.sampled_from(list(SELECTORS)), training=st.booleans())
@settings(max_examples=25)
def test_pools_agree_with_the_reference(backend, seed, share, dims, selector, training):
    """On random graphs with all messages in pools, in a row or not: outputs bit by bit, gradients as written down."""
    torch.use_deterministic_algorithms(True)  # fills new memory with nan
    wiring = random_dag(seed, dims=dims)
    network = ng.StaticNeuralGraph(wiring, SELECTORS[selector](round(share * wiring.num_edges)), backend, dims=dims).double()
    perturb(network)
    network.train(training)
    x = torch.randn(3, len(wiring.inputs), *SIZES[dims], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    twin = pooled(copy.deepcopy(network), False)
    torch.testing.assert_close(pooled(network)(x), twin(x), rtol=0, atol=0)
    check_network(network, x, tolerance=1e-9)


def test_messages_of_several_types():
    """Under autocast those of node 0 are half as long as the data, which node 1 sends as they are: nothing is rounded."""
    wiring = ng.wirings.from_edges(
        [(0, 2), (1, 2), (0, 3), (1, 3), (2, 3)], inputs=[0, 1], outputs=[3],
        functions=[ng.NodeFunction("conv"), *[ng.NodeFunction()] * 2, ng.NodeFunction(aggregate="product")])
    network = ng.StaticNeuralGraph(wiring, ng.Complete(), "dense")
    x, found = torch.randn(3, 2, 6, 5, generator=torch.Generator().manual_seed(1)).requires_grad_(), []
    for is_pooled in (True, False):
        with torch.autocast("cpu", torch.bfloat16):
            y = pooled(network, is_pooled)(x)
        found.append((y, *torch.autograd.grad(y.square().sum(), (x, network.weight))))
    torch.testing.assert_close(*found, rtol=0, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stage_that_nothing_reads_passes_gradients_on(backend):
    """Node 2 is computed between the others that read nodes 0 and 1, and leads nowhere."""
    wiring = ng.wirings.from_edges(
        [(0, 2), (1, 2), (0, 3), (1, 3), (0, 4), (1, 4), (3, 4)], inputs=[0, 1], outputs=[4],
        functions=[ng.NodeFunction("conv")] * 3 + [ng.NodeFunction("conv", aggregate="product"), ng.NodeFunction()])
    network = pooled(ng.StaticNeuralGraph(wiring, ng.TopK(6), backend, dtype=torch.float64))
    assert [len(stage.nodes) for stage in network.stages] == [2, 1, 1, 1]
    check_network(network, data(network))


@pytest.mark.parametrize("make", [layered, gathered])
def test_gradients_of_gradients_and_many_at_once(make):
    network = make()
    x, weight = data(network).requires_grad_(), network.weight.detach()
    network.selector = ng.Complete()  # of which the gradient is that of the function computed

    def outputs(x, weight):
        return torch.func.functional_call(network, {"weight": weight}, (x,))

    assert torch.autograd.gradgradcheck(outputs, (x, weight.requires_grad_()))
    y = network(x)
    each = torch.eye(y.numel(), dtype=y.dtype).view(-1, *y.shape)
    wanted = x, network.weight, *filter(lambda p: p.requires_grad, network.functions.parameters())

    def along(direction):
        return torch.autograd.grad(y, wanted, direction, retain_graph=True)

    alone = [torch.stack(gradients) for gradients in zip(*map(along, each))]
    torch.testing.assert_close(torch.autograd.grad(y, wanted, each, is_grads_batched=True, retain_graph=True), tuple(alone))
    torch.testing.assert_close(torch.func.vmap(along)(each), tuple(alone))
    torch.testing.assert_close(torch.autograd.grad(y, wanted, each[0], create_graph=True), tuple(g[0] for g in alone))


@pytest.mark.parametrize("make", [layered, gathered, lambda: layered(dims=2, backend="sparse")])
def test_gradients_of_a_part(make):
    """A loss on messages inside, or on some outputs only: no stage waits for one that takes no part, or adds to what
    is finished."""
    network = make().eval()
    x = data(network)
    other, found = pooled(copy.deepcopy(network), False), []
    for own in (network, other):
        inside = []
        operation = own.functions.groups[0].send[-1]
        handle = operation.register_forward_hook(lambda module, given, message: inside.append(message))
        y = own(x)
        handle.remove()
        parts = [*(message.square().sum() for message in inside[1:]), y[:, 0].sum()]
        found.append([gradient for part in parts for gradient in
                      torch.autograd.grad(part, list(own.parameters()), retain_graph=True, allow_unused=True)])
    torch.testing.assert_close(*found)


def test_forward_mode_sees_operations_of_torch():
    network = layered().eval()
    x = data(network)
    with torch.autograd.forward_ad.dual_level():
        tangent = torch.autograd.forward_ad.unpack_dual(network(torch.autograd.forward_ad.make_dual(x, x.cos()))).tangent
    torch.testing.assert_close(tangent, torch.func.jvp(network, (x,), (x.cos(),))[1])


def graph(y):
    """How many nodes the autograd graph has, and how many edges."""
    seen, waiting, edges = set(), [y.grad_fn], 0
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            edges += len(node.next_functions)
            waiting += (following for following, _ in node.next_functions)
    return len(seen), edges


def kept(network, x):
    """How many bytes autograd keeps, parameters and all."""
    storages = {}

    def keep(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = network(x)
    return sum(storages.values()), graph(y)


def test_what_is_kept_grows_as_the_depth_does():
    """Each stage reads all before it, of which none is copied or listed."""
    costs = []
    for nodes in (20, 40, 80):
        wiring = ng.wirings.complete_dag(nodes, inputs=2, outputs=2, function=SMOOTH)
        network = ng.StaticNeuralGraph(wiring, ng.Complete(), "dense", dims=0)
        numbers, (length, edges) = kept(network, torch.randn(64, 2))
        costs.append((numbers - 4 * wiring.num_edges, length, edges))  # without the weights
    for few, some, many in zip(*costs):
        assert many - some <= 2.1 * (some - few)


def test_where_pools_are():
    """Where stages read much together and gradients of most messages are open at once."""
    def where(wiring):
        places = ng.StaticNeuralGraph(wiring, ng.Complete())._places
        return len(places.pooled), len(places.crowded)

    assert where(ng.wirings.complete_dag(40, inputs=2, outputs=2)) == (1, 1)
    assert where(ng.wirings.blocks([3, 4, 4, 2])) == (1, 0)  # convolutions would copy what stands in a row
    assert where(ng.wirings.chain([3, 8, 2])) == (0, 0)  # nothing is joined
    band = [(u, v) for v in range(1, 200) for u in range(max(0, v - 20), v)]
    assert where(ng.wirings.from_edges(band, inputs=[0], outputs=[199])) == (0, 0)  # far more than is open at once
    apart = [(v - away, v) for v in range(1, 40) for away in (1, 18, 20) if away == 1 or v > 20]
    assert where(ng.wirings.from_edges(apart, inputs=[0], outputs=[39])) == (0, 0)  # few, which would be copied anyway


@given(seed=st.integers(0, 10**9))
def test_messages_open_at_once(seed):
    """Counted stage by stage: gradients of which nodes a stage of a later one, or this one, has begun."""
    network = ng.StaticNeuralGraph(random_dag(seed, max_hidden=20), ng.Complete())
    stages, scales = network.stages, network.wiring.message_scale()
    read = {number: {int(node) for stage in stages[number:] for node in stage.sources} for number in range(len(stages))}
    born = {int(node): number for number, stage in enumerate(stages) for node in stage.nodes}
    places = network._places
    last_read = {key: number for number, stage in enumerate(stages) for key in stage.inputs}
    for scale, most in _most_open(places.of, last_read).items():
        assert most == max(sum(born[node] < number and scales[node] == scale for node in nodes)
                           for number, nodes in read.items())


def test_pickles_and_copies():
    network = gathered()
    x = data(network)
    network(x)
    assert network._places._index and not pickle.loads(pickle.dumps(network))._places._index  # which may be on any device
    for again in (pickle.loads(pickle.dumps(network)), copy.deepcopy(network)):
        torch.testing.assert_close(again(x), network(x), rtol=0, atol=0)
    old = copy.copy(network)
    old._places = copy.copy(network._places)
    for name in set(vars(old._places)) - {"rows", "of"}:  # all there was in version 0.2
        delattr(old._places, name)
    torch.testing.assert_close(pickle.loads(pickle.dumps(old))(x), network(x), rtol=0, atol=0)
