"""Operations and activations, built-in and registered: everything that reads the registry serves them or says no."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

import neuralgraph as ng
from neuralgraph import NodeFunction
from neuralgraph.errors import InputError, UnknownNameError, WiringError
from neuralgraph.nodes import (
    ACTIVATIONS,
    LOWERED,
    NORMS,
    OPERATIONS,
    LearnedActivation,
    Operation,
    Scalar,
    check_acts,
    decode_steps,
    encode_steps,
    used_values,
    value_shapes,
)
from neuralgraph.plan import lower, run
from neuralgraph.testing import check_operation
from neuralgraph.testing.operations import by_node, shaken

BUILT_IN = (dict(ACTIVATIONS), dict(OPERATIONS))


class Gain(Operation):
    """y = gain x, an affine step."""

    name, learned, weights = "gain", {"gain": "gain"}, ("gain",)

    def __init__(self, function, channels, dims):
        super().__init__(function, channels, dims)
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, x, rows):
        return x * self.per_channel(self.gain[rows])

    def multiply_adds(self, space):
        return math.prod(space)

    def lower(self, rows):
        gain = self.gain[rows]
        return [ng.nodes.Affine(ng.nodes.array(gain), ng.nodes.array(torch.zeros_like(gain)))]


class Quadratic(LearnedActivation):
    """y = a + b x + c x^2 with learned a, b, c."""

    name, learned = "quadratic", {"coefficients": "coefficients"}
    scalar = Scalar(lambda x, p: p[0] + p[1] * x + p[2] * x * x, formula=lambda x, p: p[0] + p[1] * x + p[2] * x * x,
                    onnx=lambda graph, x, p: graph.add(
                        "Add", graph.constant(p[0]), graph.add("Mul", x, graph.add(
                            "Add", graph.constant(p[1]), graph.add("Mul", x, graph.constant(p[2]))))))

    def __init__(self, function, channels, dims):
        super().__init__(function, channels, dims)
        self.coefficients = nn.Parameter(torch.tensor([0.1, 1.0, 0.2]).repeat(channels, 1))


class Half(Operation):
    """Every second pixel; says nothing of plans."""

    name = "half"

    @classmethod
    def shrinks(cls, function):
        return 2

    def forward(self, x, rows):
        return x[(..., *[slice(None, None, 2)] * self.dims)]


@pytest.fixture(autouse=True)
def registered():
    """The registries as they were, with these in them."""
    ng.register_activation("sine", torch.sin, formula=math.sin, onnx="Sin")
    ng.register_activation("cube", lambda x: x**3)
    for operation in (Gain, Quadratic, Half):
        ng.register_operation(operation)
    yield
    for family, before in zip((ACTIVATIONS, OPERATIONS), BUILT_IN):
        family.clear()
        family.update(before)
    value_shapes.cache_clear()
    check_acts.cache_clear()


def wiring_of(function):
    """Blocks, or a chain where strides differ between nearer and farther blocks."""
    generate = ng.wirings.blocks if function.send_stride == function.receive_stride == 1 else ng.wirings.chain
    return generate([2, 4, 4, 3], function)


FUNCTIONS = {
    "sine": dict(send="norm activation conv", activation="sine"),
    "gain": dict(send="norm gain activation conv", receive="gain", activation="sine"),
    "quadratic": dict(send="quadratic conv", receive="bias quadratic"),
    "twice": dict(send="gain gain", receive="gain"),
}
CANNOT_COMPILE = {"cube": dict(send="norm activation", activation="cube"), "half": dict(receive="half", send="conv")}


@pytest.mark.parametrize("name", {**FUNCTIONS, **CANNOT_COMPILE})
def test_registered_ones_on_every_backend(name):
    check_operation(NodeFunction(**{**FUNCTIONS, **CANNOT_COMPILE}[name]))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_registered_ones_are_compiled_and_exported(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    network = shaken(ng.StaticNeuralGraph(wiring_of(NodeFunction(**FUNCTIONS[name])), ng.TopK(20)))
    x = torch.randn(3, 2, 8, 7)
    with torch.no_grad():
        expected = network(x)
        fast = ng.compile(network)
        tolerance = {"rtol": 0, "atol": 1e-5 * max(1.0, expected.abs().max().item())}
        torch.testing.assert_close(run(lower(network), x), expected, **tolerance)
        torch.testing.assert_close(fast(x), expected, **tolerance)
    fast.save(tmp_path / "fast.ng")
    assert torch.equal(ng.inference.load(tmp_path / "fast.ng")(x), fast(x))
    ng.export_onnx(network, tmp_path / "net.onnx", space=(8, 7))
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    torch.testing.assert_close(torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), expected, **tolerance)


@pytest.mark.parametrize("name, message", [("cube", "'cube' cannot be"), ("half", "operation 'half' can be neither")])
def test_what_cannot_be_is_refused_by_name(name, message, tmp_path):
    network = ng.StaticNeuralGraph(wiring_of(NodeFunction(**CANNOT_COMPILE[name])), ng.TopK(20))
    with pytest.raises(InputError, match=message):
        ng.compile(network)
    pytest.importorskip("onnx")
    with pytest.raises(InputError, match=message):
        ng.export_onnx(network, tmp_path / "net.onnx", space=(16, 16))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("activation", BUILT_IN[0])
def test_every_built_in_activation_in_all_its_forms(activation):
    """The function, the plan, the compiled formula, and the fused kernels of training."""
    form = ACTIVATIONS[activation]
    assert form.slope is not None or form.formula is not None
    assert form.onnx is not None
    function = NodeFunction("norm activation conv", activation=activation)
    network = shaken(ng.StaticNeuralGraph(wiring_of(function), ng.TopK(20), "sparse", dtype=torch.float64))
    x = 3 * torch.randn(2, 2, 6, 5, dtype=torch.float64)
    with torch.no_grad():
        expected = by_node(network, x)
        for y in (network(x), run(lower(network), x), ng.compile(network)(x)):
            torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
    if form.formula is not None:
        values = torch.linspace(-30, 30, 101, dtype=torch.float64)
        torch.testing.assert_close(torch.tensor([form.formula(v) for v in values.tolist()], dtype=torch.float64),
                                   form(values), rtol=1e-12, atol=1e-12)


def test_every_built_in_operation_is_used_with_its_values():
    """Names in wirings are parameters of the operation, and lowering needs no more than the library's words."""
    for step, operation in BUILT_IN[1].items():
        function = NodeFunction(step)
        kind = operation.of(function)
        made = kind(function, 5, 2)
        made.reset(torch.Generator())
        assert used_values(function) == set(kind.learned) == set(value_shapes(function, 2))
        assert all(len(made.value(attribute)) == 5 for attribute in kind.learned.values())
        assert set(kind.weights) <= set(kind.learned)
        lowered = made.lower(torch.tensor([1, 3]))
        assert all(type(part) in LOWERED.values() for part in lowered)
    assert {norm.name for norm in filter(None, NORMS.values())} == {"norm"}


@given(st.lists(st.sampled_from(["norm", "activation", "conv", "bias", "gain", "quadratic"]), max_size=9))
@settings(max_examples=50)
def test_codes_of_steps_round_trip(steps):
    text = " ".join(steps)
    if sum(6 if step in ("gain", "quadratic") else 1 for step in steps) > 20:
        with pytest.raises(WiringError, match="cannot hold so many steps"):
            encode_steps(text)
        return
    assert decode_steps(encode_steps(text)) == text and encode_steps(text) < 2**63


def test_wirings_hold_them_by_codes_that_do_not_depend_on_the_order_of_registration():
    wiring = wiring_of(NodeFunction("gain activation quadratic", activation="sine"))
    assert ng.Wiring(wiring.data) == wiring
    codes = wiring.data.ndata
    for family, before in zip((ACTIVATIONS, OPERATIONS), BUILT_IN):
        family.clear()
        family.update(before)
    for family in ("activation", "send"):
        with pytest.raises(WiringError, match="register it first"):
            ng.Wiring(wiring.data)
    ng.register_operation(Quadratic)
    ng.register_activation("other", torch.cos)
    ng.register_operation(Gain)
    ng.register_activation("sine", torch.sin)
    again = ng.Wiring(wiring.data)
    assert again.functions == wiring.functions
    assert all(torch.equal(codes[name], again.data.ndata[name]) for name in ("send", "activation"))


@pytest.mark.parametrize("ending", ["json", "graphml", "gexf"])
def test_files_name_them(ending, tmp_path):
    function = NodeFunction("gain activation quadratic", activation="sine")
    network = shaken(ng.StaticNeuralGraph(wiring_of(function), ng.TopK(20)))
    path = ng.write(network.learned_wiring(), tmp_path / f"wiring.{ending}")
    again = ng.StaticNeuralGraph(ng.read(path), ng.Complete())
    x = torch.randn(2, 2, 5, 5)
    torch.testing.assert_close(again(x), network(x), rtol=1e-5, atol=1e-6)
    del ACTIVATIONS["sine"]
    with pytest.raises(WiringError, match="unknown activation 'sine'.*register it first: ng.register_activation"):
        ng.read(path)
    ng.register_activation("sine", torch.sin)
    del OPERATIONS["gain"]
    with pytest.raises(WiringError, match="unknown node step 'gain'.*register it first: ng.register_operation"):
        ng.read(path)


def test_costs_count_them():
    network = ng.StaticNeuralGraph(ng.wirings.chain([2, 3], NodeFunction("gain bias quadratic")), ng.Complete())
    price = ng.analysis.cost(network, 5, 4)
    assert price.multiply_adds == 20 * (6 + 2)
    assert price.parameters == 6 + 2 and price.norms_and_biases == 2 * (1 + 3)
    assert ng.analysis.executed_multiply_adds(network, torch.zeros(1, 2, 5, 4)) == price.multiply_adds


def test_strides_of_registered_operations():
    function = NodeFunction(receive="half", send="conv")
    assert (function.receive_stride, function.send_stride) == (2, 1)
    network = ng.StaticNeuralGraph(wiring_of(function), ng.TopK(20))
    assert network(torch.zeros(1, 2, 9, 8)).shape == (1, 3, 3, 2)  # outputs only sum


def test_registering_again():
    ng.register_activation("cosine", torch.cos)
    ng.register_activation("cosine", torch.cos)  # the same
    with pytest.raises(InputError, match="another activation 'cosine' already: give yours another name, or replace"):
        ng.register_activation("cosine", torch.sin)
    ng.register_activation("cosine", torch.sin, replace=True)
    assert ACTIVATIONS["cosine"](torch.ones(1)) == torch.sin(torch.ones(1))
    ng.register_operation(Gain)

    class Other(Gain):
        pass

    with pytest.raises(InputError, match="another operation 'gain' already"):
        ng.register_operation(Other)
    assert ng.register_operation(Other, replace=True) is Other and OPERATIONS["gain"] is Other


def subclass(**attributes):
    return type("Mine", (Gain,), attributes)


@pytest.mark.parametrize("make, message", [
    (lambda: ng.register_activation("relu", torch.sin), "built-in activation 'relu'"),
    (lambda: ng.register_activation("relu", torch.sin, replace=True), "built-in activation 'relu'"),
    (lambda: ng.register_activation("gain", torch.sin), "'gain' is the name of an operation"),
    (lambda: ng.register_activation("my sin", torch.sin), "must be a Python name"),
    (lambda: ng.register_activation(3, torch.sin), "must be a Python name"),
    (lambda: ng.register_activation("softmax", lambda x: torch.softmax(x, -1)), "must be elementwise"),
    (lambda: ng.register_activation("total", torch.sum), "must be elementwise"),
    (lambda: ng.register_activation("double", lambda x: x.double()), "must be elementwise"),
    (lambda: ng.register_activation("broken", lambda x: x.nothing), "raises AttributeError"),
    (lambda: ng.register_activation("none", torch.sin), "must be a Python name"),
    (lambda: ng.register_activation("steep", torch.sin, slope=0.5), "is not x from 0 on and 0.5 x below"),
    (lambda: ng.register_operation(Gain(NodeFunction(), 2, 2)), "expected a subclass"),
    (lambda: ng.register_operation(nn.ReLU), "expected a subclass"),
    (lambda: ng.register_operation(Operation), "expected a subclass"),
    (lambda: ng.register_operation(subclass(name="conv", learned={})), "built-in operation 'conv'"),
    (lambda: ng.register_operation(subclass(name="tanh", learned={})), "'tanh' is the name of an activation"),
    (lambda: ng.register_operation(subclass(name="two words", learned={})), "must be a Python name"),
    (lambda: ng.register_operation(subclass(name="mine")), "cannot call a learned value 'gain': that name is taken"),
    (lambda: ng.register_operation(subclass(name="mine", learned={"role": "gain"})), "'role': that name is taken"),
    (lambda: ng.register_operation(subclass(name="mine", learned={"gain_2": "gain"})), "must not end in _ and a number"),
    (lambda: ng.register_operation(subclass(name="mine", learned={}, weights=("g",))), "must be among its learned"),
])
def test_what_cannot_be_registered(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_unknown_names_say_how_to_register():
    with pytest.raises(UnknownNameError, match="unknown activation 'wave'.*ng.register_activation"):
        NodeFunction("activation", activation="wave")
    with pytest.raises(UnknownNameError, match="unknown node step 'pool'.*ng.register_operation"):
        NodeFunction("norm pool")


def test_a_compiled_file_of_an_unregistered_function(tmp_path):
    network = ng.StaticNeuralGraph(wiring_of(NodeFunction(**FUNCTIONS["quadratic"])), ng.TopK(20))
    ng.compile(network).save(tmp_path / "fast.ng")
    del OPERATIONS["quadratic"]
    with pytest.raises(ng.errors.CheckpointError, match="unknown elementwise function 'quadratic'.*register it first"):
        ng.inference.load(tmp_path / "fast.ng")


def test_a_formula_that_numba_does_not_know_is_named():
    ng.register_activation("odd", torch.sin, formula=lambda x: open(x))
    network = ng.StaticNeuralGraph(wiring_of(NodeFunction("activation", activation="odd")), ng.TopK(20)).eval()
    with pytest.raises(InputError, match="formula of 'odd' cannot be compiled"):
        ng.compile(network)(torch.zeros(1, 2, 4, 4))


def test_kernels_start_as_a_convolution_of_their_fan_in():
    for dims, bound in ((1, 5**-0.5), (2, 1 / 5), (3, 5**-1.5)):
        conv = OPERATIONS["conv"](NodeFunction("conv", kernel_size=5), 200, dims)
        conv.reset(torch.Generator().manual_seed(0))
        assert 0.98 * bound < conv.weight.abs().max() < bound


def test_instance_norms_refuse_maps_of_one_pixel():
    network = ng.StaticNeuralGraph(wiring_of(NodeFunction("norm", norm="instance")), ng.TopK(20)).eval()
    for net in (network, ng.compile(network)):
        with pytest.raises(InputError, match="more than one pixel, got 1x1"), torch.no_grad():
            net(torch.zeros(2, 2, 1, 1))


def wrong(forward=None, **attributes):
    """A gain that does something else, as a step of a network of images."""
    ng.register_operation(type("Wrong", (Gain,), {"name": "wrong", "learned": {}, "weights": (), **attributes,
                                                  **({"forward": forward} if forward else {})}))
    return ng.StaticNeuralGraph(wiring_of(NodeFunction("wrong")), ng.TopK(20))


@pytest.mark.parametrize("make, message", [
    (lambda: wrong(lambda self, x, rows: x.flatten(2)), "'wrong' makes .2, 3, 81. of a tensor of shape .2, 3, 9, 9."),
    (lambda: wrong(lambda self, x, rows: x[:, :1]), "expected .2, 3, 9, 9. with dims=2"),
    (lambda: wrong(shrinks=classmethod(lambda cls, function: 2)), "expected .2, 3, 5, 5."),
    (lambda: wrong(lambda self, x, rows: x @ torch.ones(4, 4)), "cannot act on maps of 2 dimensions: .*RuntimeError"),
    (lambda: wrong(lambda self, x, rows: None), "makes NoneType"),
    (lambda: wrong(learned={"mean": "nothing"}), "cannot act .* AttributeError"),
])
def test_operations_that_do_not_keep_what_they_promise(make, message):
    state = torch.get_rng_state()
    with pytest.raises(WiringError, match=f"node 0: the operation .*{message}"):
        make()
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("function", [NodeFunction("conv"), NodeFunction("norm", norm="instance")])
def test_built_in_operations_say_what_they_cannot(function):
    with pytest.raises(WiringError, match="node 0: .* with dims=0 there"):
        ng.StaticNeuralGraph(wiring_of(function), ng.TopK(20), dims=0)


@pytest.mark.parametrize("field", ["send", "receive", "norm", "activation", "kernel_size", "stride", "aggregate",
                                   "zero_pad"])
@pytest.mark.parametrize("value", [torch.ones(2), [1], {}, 2.5, b"norm", "x", -3, float("nan")],
                         ids=lambda value: type(value).__name__ + str(value)[:3])
def test_settings_of_a_node_have_their_types(field, value):
    with pytest.raises((WiringError, UnknownNameError)):
        NodeFunction(**{"send": "norm activation conv", field: value})
