"""What torch does with networks beside running them: transforms, tracing, devices, averaging, data parallelism."""

import copy
import io

import numpy as np
import pytest
import torch
from graphs import random_dag, random_dynamic
from hypothesis import example, given, settings, strategies as st
from precision import double_precision

import neuralgraph as ng
from neuralgraph import NodeFunction
from neuralgraph.backends import BACKENDS, available
from neuralgraph.errors import InputError

WIRING = ng.wirings.blocks([3, 4, 4, 2])
CYCLES = ng.wirings.complete(7, inputs=3, outputs=2)
KINDS = {"static": lambda **o: ng.StaticNeuralGraph(WIRING, ng.TopK(20), **o),
         "discrete": lambda **o: ng.DiscreteTimeNeuralGraph(CYCLES, ng.TopK(20), **{"steps": 2, **o})}
x = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gradient", ["ste", "masked", "soft_g"])
def test_functional_transforms(kind, gradient):
    network = KINDS[kind](dtype=torch.float64).eval()
    network.selector.gradient = gradient
    parameters = {name: p.detach() for name, p in network.named_parameters()}

    def loss(parameters, x):
        return torch.func.functional_call(network, parameters, (x,)).square().sum()

    expected = torch.autograd.grad(network(x).square().sum(), list(network.parameters()))
    actual = torch.func.grad(loss)(parameters, x)
    for wanted, name in zip(expected, parameters):
        torch.testing.assert_close(actual[name], wanted, rtol=1e-10, atol=1e-12)
    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x[:, None])
    torch.testing.assert_close(each["weight"].sum(0), expected[0], rtol=1e-10, atol=1e-12)
    jacobian = torch.func.jacrev(network)(x)
    torch.testing.assert_close(jacobian, torch.autograd.functional.jacobian(network, x), rtol=1e-10, atol=1e-12)


def test_what_cannot_be_transformed_says_so():
    network = KINDS["static"](dtype=torch.float64).eval()
    sets = torch.stack([network.weight.detach()] * 2)
    with pytest.raises(InputError, match="vmap over edge weights.*loop over the networks"):
        torch.func.vmap(lambda w: torch.func.functional_call(network, {"weight": w}, (x,)))(sets)
    for backend in {"sparse", "dgl"} & set(available()):
        network.backend = backend
        with pytest.raises(InputError, match="traces or transforms.*backend='dense'"):
            torch.func.jacrev(network)(x)
    continuous = ng.ContinuousTimeNeuralGraph(CYCLES, ng.TopK(20), dtype=torch.float64)
    with pytest.raises(InputError, match="neither inside torch.func"):
        torch.func.jacrev(continuous)(x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_traces_compute_the_same(kind):
    network = KINDS[kind](dtype=torch.float64).eval()
    traced = torch.jit.trace(network, x)
    other = torch.randn(3, 3, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(traced(other), network(other), rtol=1e-10, atol=1e-12)
    torch.jit.save(traced, io.BytesIO())  # so there are torch's own operations only
    assert "neuralgraph::" not in str(traced.inlined_graph)


@pytest.mark.parametrize("kind", KINDS)
def test_meta_tensors_have_shapes(kind):
    network = KINDS[kind](dtype=torch.float64).to("meta")
    for training in (True, False):
        y = network.train(training)(x.to("meta"))
        assert y.shape == (2, 2, 4, 4) and y.is_meta
    y.sum().backward()
    assert network.weight.grad.is_meta


@pytest.mark.parametrize("kind", [*KINDS, "continuous"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_default_device_does_not_matter(kind, backend):
    make = {**KINDS, "continuous": lambda **o: ng.ContinuousTimeNeuralGraph(CYCLES, ng.TopK(20), **o)}[kind]
    expected = make(dtype=torch.float64, backend=backend)
    with torch.device("meta"):
        network = make(dtype=torch.float64, backend=backend)
        y = network(x)
        y.sum().backward()
        for value in network.state_dict().values():
            assert value.device.type == "cpu"
    assert torch.equal(y, expected(x))


def test_averaged_models_average_buffers_too():
    network = ng.DiscreteTimeNeuralGraph(random_dynamic(1), ng.TopK(9), dtype=torch.float64).eval()
    averaged = torch.optim.swa_utils.AveragedModel(network, use_buffers=True)
    for _ in range(3):
        averaged.update_parameters(network)
    some = torch.randn(2, len(network.wiring.inputs), 4, 4, dtype=torch.float64)
    torch.testing.assert_close(averaged(some), network(some))


@given(seed=st.integers(0, 10**9), learned=st.booleans())
@example(252, True)  # no edge leads to an output
@settings(max_examples=30)
def test_every_parameter_that_asks_for_a_gradient_gets_one(seed, learned):
    """Also on learned wirings, where no path may lead from a node to an output; the others get none."""
    with double_precision():
        wiring = random_dag(seed)
        network = ng.StaticNeuralGraph(wiring, ng.TopK(wiring.num_edges * 2 // 3), seed=seed)
        if learned:
            network = ng.StaticNeuralGraph(network.learned_wiring(), ng.Complete(), seed=seed)
        y = network(torch.randn(2, len(wiring.inputs), 8, 8))
        if y.requires_grad:  # an edge leads to an output
            y.square().sum().backward()
        for parameter in network.functions.parameters():
            assert parameter.requires_grad == (parameter.grad is not None)


def test_unused_parameters_stay_in_checkpoints():
    functions = [NodeFunction(receive="bias"), NodeFunction("bias"), NodeFunction("norm", "bias")]
    wiring = ng.wirings.from_edges([(0, 1), (1, 2)], inputs=[0], outputs=[2], functions=functions)
    network = ng.StaticNeuralGraph(wiring, ng.Complete())
    frozen = [name for name, p in network.named_parameters() if not p.requires_grad]
    assert frozen == ["functions.groups.0.receive.0.bias", "functions.groups.2.send.0.weight",
                      "functions.groups.2.send.0.bias"]
    discrete = ng.DiscreteTimeNeuralGraph(wiring, ng.Complete())
    discrete.load_state_dict(network.state_dict())
    assert all(p.requires_grad for p in discrete.parameters())


def test_data_parallel_training_goes_on_after_the_first_step(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        functions = [NodeFunction(receive="bias"), NodeFunction("bias"), NodeFunction("norm", "bias")]
        network = ng.StaticNeuralGraph(ng.wirings.from_edges([(0, 1), (1, 2)], inputs=[0], outputs=[2],
                                                             functions=functions), ng.Complete())
        parallel = torch.nn.parallel.DistributedDataParallel(network)
        for _ in range(3):
            parallel(torch.randn(2, 1, 3, 3)).sum().backward()
    finally:
        parallel = None  # what it holds of gloo must go first, or may wait forever
        torch.distributed.destroy_process_group()


# The same on every backend


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
@pytest.mark.parametrize("aggregate", ["sum", "product"])
def test_what_is_not_finite_passes_along_real_edges_only(backend, bad, aggregate):
    """0 inf is not 0: inputs 0 and 1 are read by outputs 2 and 3, each by one, really."""
    wiring = ng.wirings.from_edges(
        [(0, 2), (1, 2), (0, 3), (1, 3)], inputs=[0, 1], outputs=[2, 3], weight=torch.tensor([2.0, 0.1, 0.1, -3.0]),
        functions=[NodeFunction()] * 2 + [NodeFunction(aggregate=aggregate)] * 2)
    for dims in range(4):
        network = ng.StaticNeuralGraph(wiring, ng.TopK(2), backend=backend, dims=dims)
        images = torch.ones(3, 2, *[2] * dims)
        images[1, 0] = bad
        y = network(images)
        expected = torch.stack([2 * images[:, 0], -3 * images[:, 1]], dim=1)
        assert torch.equal(y.nan_to_num(7.0), expected.nan_to_num(7.0))
        y.nan_to_num().sum().backward()


@pytest.mark.parametrize("kind", [*KINDS, "continuous"])
@pytest.mark.parametrize("kept", [torch.float32, torch.bfloat16])
def test_outputs_under_autocast_have_one_type(kind, kept):
    make = {**KINDS, "continuous": lambda **o: ng.ContinuousTimeNeuralGraph(CYCLES, ng.TopK(20), **o)}[kind]
    for backend in available():
        network = make(backend=backend, dtype=torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            assert network(x.to(kept)).dtype == torch.float32
            if kind != "static":
                y, state = network(x.to(kept), return_state=True)
                assert state.values.dtype == torch.float32
                network(None, state=state)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_kept_in_evaluation_depends_on_real_edges_alone(backend):
    """A new gradient rule holds at once."""
    wiring = ng.wirings.chain([4, 2], NodeFunction())
    network = ng.StaticNeuralGraph(wiring, ng.TopK(1), backend=backend).eval()
    images = torch.rand(1, 4, 3, 3) + 1
    for gradient, reached in (("masked", 1), ("ste", 8), ("soft_g", 8), ("masked", 1)):
        network.selector.gradient = gradient
        network.weight.grad = None
        network(images).sum().backward()
        assert int((network.weight.grad != 0).sum()) == reached


def test_another_selector_chooses_anew():
    network = KINDS["static"]().eval()
    assert network.selection().real.sum() == 20
    selector = ng.Complete()
    selector.bind(network.wiring, network.weight, torch.Generator())
    selector.fingerprint = network.selector.fingerprint
    network.selector = selector
    assert network.selection().real.all()


def test_backends_of_others_may_not_know_what_is_shared():
    class Theirs(ng.backends.Backend):
        def propagate(self, stage, messages, selection):
            return ng.backends.create("dense").propagate(stage, messages, selection)

    network = KINDS["static"](dtype=torch.float64)
    expected = copy.deepcopy(network)(x)
    network.backend = Theirs()
    torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_wirings_and_networks_are_made_on_the_cpu(device):
    matrix, numbers = torch.eye(3).roll(1, 0).tril(-1).T, torch.randn(2, 2, 4, 4)
    with torch.device(device):
        made = [ng.wirings.blocks([2, 3, 1]), ng.wirings.chain([2, 1]), ng.wirings.complete(4, inputs=1, outputs=1),
                ng.wirings.complete_dag(4, inputs=1, outputs=1), ng.wirings.from_edges([(0, 1), (1, 2)]),
                ng.wirings.from_adjacency(matrix), ng.wirings.mlp([2, 3, 1]), ng.wirings.rnn(2, 3), ng.wirings.lstm(2, 2)]
        again = ng.from_networkx(ng.to_networkx(made[0]))
        network = ng.StaticNeuralGraph(made[0], ng.TopK(5)).eval()
        learned = network.learned_wiring()
    assert all(t.device.type == "cpu" for wiring in (*made, again, learned) for t in (wiring.src, wiring.role))
    assert network(numbers).shape == (2, 1, 4, 4)


def test_integers_of_numpy_are_integers():
    two = np.int64(2)
    network = ng.DiscreteTimeNeuralGraph(ng.wirings.complete(two + 2, inputs=two, outputs=np.int8(1)), ng.TopK(np.int32(5)),
                                         seed=np.uint8(3), steps=two, dims=two)
    assert network.selector.k == 5 and network(torch.zeros(1, 2, 4, 4)).shape == (1, 1, 4, 4)
    assert ng.models.create("tiny-static", k=np.int64(30), num_classes=two, image_size=np.int64(8)).num_real_edges == 30
    assert ng.analysis.cost(network, np.int64(4), 4).multiply_adds > 0
    for wrong in (True, np.bool_(True), 2.0, np.float64(2), "2", None, -1):
        with pytest.raises(ng.errors.NeuralGraphError):
            ng.TopK(wrong)
        with pytest.raises(InputError):
            ng.StaticNeuralGraph(WIRING, ng.TopK(3), dims=wrong)
