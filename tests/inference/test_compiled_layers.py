"""Ordinary models compiled give the outputs of the model in evaluation, and are refused where they cannot."""

import copy
import pickle
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings, strategies as st
from torch import nn
from torch.nn.utils import prune

import neuralgraph as ng
from neuralgraph.errors import InputError
from neuralgraph.inference import layers_layout as layers
from neuralgraph.plan.layers import Call, Convolution, Pool

pytestmark = pytest.mark.usefixtures("two_threads")


@pytest.fixture(scope="module", autouse=True)
def all_sparse():
    """Layers of every density edge by edge."""
    before = layers.DENSE, layers.DENSE_FOURS
    layers.DENSE = layers.DENSE_FOURS = 2.0
    yield
    layers.DENSE, layers.DENSE_FOURS = before


@pytest.fixture(scope="module", autouse=True)
def poisoned():
    """Memory in which what was never written is not a number."""
    workspace = layers.LayersLayout._workspace

    def filled(layout):
        memory, private, code, values = workspace(layout)
        memory.fill_(torch.nan)
        private.fill_(torch.nan)
        return memory, private, code, values

    layers.LayersLayout._workspace = filled
    yield
    layers.LayersLayout._workspace = workspace


def thinned(model, density=0.3, seed=0):
    """Most weights 0, the others large, and norms as after training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            if name.endswith("running_var"):
                value.copy_(torch.rand(value.shape, generator=generator, dtype=value.dtype) + 0.5)
            elif value.dim() == 1:
                value.copy_(torch.randn(value.shape, generator=generator, dtype=value.dtype))
            elif value.dim() > 1:
                value.mul_(4 * (torch.rand(value.shape, generator=generator) < density))
    return model.eval()


def same(model, fast, *inputs):
    with torch.no_grad():
        expected = model(*inputs)
        for _ in range(2):  # the second time in used memory
            torch.testing.assert_close(fast(*inputs), expected, rtol=0, atol=1e-10 * max(1.0, expected.abs().max().item()))


def kinds(fast, kind):
    """The steps of a kind in the first plan."""
    (plan, *_), *_ = fast._plans.values()
    return [step for step in plan.steps if type(step) is kind]


ACTIVATIONS = [nn.Identity(), nn.ReLU(), nn.LeakyReLU(0.2), nn.SiLU(), nn.GELU(), nn.ReLU6(), nn.Sigmoid(), nn.Tanh(), nn.ELU()]


class Layer(nn.Module):
    """A layer, perhaps a norm, perhaps something added, an activation."""

    def __init__(self, layer, norm, adds, activation):
        super().__init__()
        self.layer, self.norm, self.adds, self.activation = layer, norm, adds, activation

    def forward(self, x):
        y = self.norm(self.layer(x))
        return self.activation(y + torch.cos(y) if self.adds == "itself" else x.mean() * torch.ones_like(y) + y if self.adds else y)


@st.composite
def convolutions(draw):
    """A layer of random settings and the shape of its input without the batch."""
    def number(most, least=1):
        return draw(st.integers(least, most))

    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    channels, outputs = groups * number(5), groups * number(9)
    dims = draw(st.sampled_from([1, 2, 2, 2]))
    kernel, stride, dilation, padding = ([number(most, least) for _ in range(dims)] for most, least in
                                         ((5, 1), (3, 1), (3, 1), (4, 0)))
    padding = draw(st.sampled_from([padding, padding, padding, "same", "valid"]))
    if padding == "same":
        stride = [1] * dims
    least = [d * (k - 1) + 1 for d, k in zip(dilation, kernel)]
    space = [number(20, 1 if padding == "same" else max(1, side - (0 if padding == "valid" else 2 * before)))
             for side, before in zip(least, padding if isinstance(padding, list) else [0] * dims)
             ] if all(side <= 20 for side in least) else least
    layer = (nn.Conv1d if dims == 1 else nn.Conv2d)(channels, outputs, kernel, stride, padding, dilation, groups,
                                                    bias=draw(st.booleans()))
    norm = draw(st.sampled_from([nn.Identity, nn.BatchNorm1d if dims == 1 else nn.BatchNorm2d]))
    return layer, norm() if norm is nn.Identity else norm(outputs), (channels, *space)


@settings(max_examples=30)
@given(convolutions(), st.sampled_from(ACTIVATIONS), st.sampled_from(["", "itself", "other"]), st.integers(1, 20),
       st.integers(1, 40), st.sampled_from([0.0, 0.1, 0.4, 1.0]), st.integers(0, 2**31))
def test_any_convolution(made, activation, adds, batch, other, density, seed):
    layer, norm, shape = made
    model = thinned(Layer(layer, norm, adds, activation).double(), density, seed)
    x = torch.randn(batch, *shape, dtype=torch.float64)
    fast = ng.compile(model, x)
    same(model, fast, x)
    same(model, fast, torch.randn(other, *shape, dtype=torch.float64))


@pytest.mark.parametrize("space", [(4, 4), (5, 7), (9, 9), (3, 6), (10, 10), (2, 3)])
@pytest.mark.parametrize("stride", [1, 2])
def test_sixteen_samples_number_by_number(space, stride):
    layer = nn.Conv2d(5, 7, 3, stride, 1)
    x = torch.randn(32, 5, *space, dtype=torch.float64)
    for adds in ("", "other"):
        model = thinned(Layer(layer, nn.Identity(), adds, nn.ReLU()).double())
        fast = ng.compile(model, x)
        same(model, fast, x)
        same(model, fast, x[:16])
        same(model, fast, x[:21])


@pytest.mark.parametrize("side, stride, padding", [(3, 1, 1), (3, 2, 1), (1, 3, 1), (5, 1, 2), (5, 4, 2)])
def test_borders_of_maps_of_one_pixel(side, stride, padding):
    for tap in range(side):
        layer = nn.Conv1d(2, 3, side, stride, padding).double()
        with torch.no_grad():
            layer.weight[..., [other for other in range(side) if other != tap]] = 0
        model = nn.Sequential(layer, nn.ReLU())
        for batch in (1, 2, 4, 16, 20):
            x = torch.randn(batch, 2, 1, dtype=torch.float64)
            same(model, ng.compile(model, x), x)


@pytest.mark.parametrize("outputs", [12, 13, 18])
def test_outputs_that_read_the_same_in_any_order(outputs):
    model = thinned(nn.Sequential(nn.Conv2d(6, outputs, 3, 2, 1), nn.ReLU(), nn.Conv2d(outputs, 5, 1)).double(), 1.0)
    with torch.no_grad():
        patterns = torch.rand(3, 6, 3, 3, generator=torch.Generator().manual_seed(1)) < 0.4
        model[0].weight.mul_(patterns[torch.arange(outputs) % 3])
    x = torch.randn(3, 6, 9, 8, dtype=torch.float64)
    fast = ng.compile(model, x)
    order = kinds(fast, Convolution)[0].fours
    assert order is not None and (order != range(outputs)).any()
    same(model, fast, x)


@settings(max_examples=10)
@given(st.lists(st.integers(1, 9), max_size=2), st.integers(1, 200), st.integers(1, 60), st.integers(1, 60), st.booleans(),
       st.sampled_from(ACTIVATIONS), st.sampled_from([0.0, 0.1, 1.0]))
def test_any_linear_layer(more, batch, inputs, outputs, bias, activation, density):
    model = thinned(nn.Sequential(nn.Linear(inputs, outputs, bias), activation, nn.Linear(outputs, 3)).double(), density)
    x = torch.randn(batch, *more, inputs, dtype=torch.float64)
    fast = ng.compile(model, x)
    same(model, fast, x)
    same(model, fast, x.transpose(0, -2) if more and more[-1] == batch else x[:1])


@pytest.mark.parametrize("kind", ["max", "mean", "mean of what is inside", "all", "adaptive", "over axes"])
@settings(max_examples=6)
@given(st.integers(1, 9), st.tuples(st.integers(1, 4), st.integers(2, 4)), st.tuples(st.integers(1, 3), st.integers(1, 3)),
       st.booleans(), st.integers(4, 37), st.integers(4, 20))
@example(3, (3, 2), (2, 1), True, 9, 19)
def test_any_pooling(kind, channels, kernel, stride, pads, height, width):
    padding = tuple(side // 2 for side in kernel) if pads else 0
    model = {"max": nn.MaxPool2d(kernel, stride, padding), "mean": nn.AvgPool2d(kernel, stride, padding),
             "mean of what is inside": nn.AvgPool2d(kernel, None, padding, count_include_pad=False),
             "all": nn.AdaptiveAvgPool2d(1), "adaptive": nn.AdaptiveAvgPool2d((2, 3)),
             "over axes": Mean()}[kind]
    x = torch.randn(3, channels, height, width, dtype=torch.float64)
    model = thinned(nn.Sequential(nn.Conv2d(channels, 5, 1), model).double())
    fast = ng.compile(model, x)
    assert len(kinds(fast, Pool)) == (kind != "adaptive")
    same(model, fast, x)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("batch", [1, 16])
def test_any_activation(activation, batch):
    x = 8 * torch.randn(batch, 3, 7, 9, dtype=torch.float64)
    for adds in ("", "itself", "other"):
        model = thinned(Layer(nn.Conv2d(3, 6, 3, padding=1), nn.Identity(), adds, activation).double(), 1.0)
        same(model, ng.compile(model, x), x)


class Mean(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


def test_poolings_that_stay_with_torch():
    for pool in (nn.MaxPool2d(2, ceil_mode=True), nn.MaxPool2d(2, dilation=2), nn.AvgPool2d(3, 2, ceil_mode=True),
                 nn.AvgPool2d(3, divisor_override=5), nn.MaxPool2d(2, return_indices=False, ceil_mode=False, padding=1)):
        model = thinned(nn.Sequential(nn.Conv2d(2, 3, 1), pool).double())
        x = torch.randn(2, 2, 9, 8, dtype=torch.float64)
        same(model, ng.compile(model, x), x)


def test_the_largest_of_infinite_numbers_and_of_none():
    x = torch.full((1, 1, 4, 4), -torch.inf)
    x[0, 0, 0, 0] = torch.nan
    x[0, 0, 3, 3] = torch.inf
    model = nn.Sequential(nn.MaxPool2d(2), nn.Flatten())
    torch.testing.assert_close(ng.compile(model, x)(x), model(x), equal_nan=True)


# ---------------------------------------------------------------------------------- whole models


class Residual(nn.Module):
    """As in residual networks: in place, with a norm that is used by two convolutions."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.a, self.b = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.norm_a, self.norm_b = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.past = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x):
        y = F.relu_(self.norm_a(self.a(x)))
        y = self.norm_b(self.b(y))
        y += self.past(x)
        return y.relu_()


class Dense(nn.Module):
    """As in densely connected networks: norm and activation before the convolution, then concatenated."""

    def __init__(self, channels, grows):
        super().__init__()
        self.norm, self.layer = nn.BatchNorm2d(channels), nn.Conv2d(channels, grows, 3, padding=1)

    def forward(self, x):
        return torch.cat([x, self.layer(F.relu(self.norm(x)))], 1)


class Block(nn.Module):
    """A block of a transformer."""

    def __init__(self, width, heads):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        y = self.norms[0](x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.narrow(F.gelu(self.wide(self.norms[1](x))))


MODELS = {
    "residual": (nn.Sequential(Residual(3, 8, 1), Residual(8, 12, 2), Residual(12, 12, 1), nn.AdaptiveAvgPool2d(1),
                               nn.Flatten(), nn.Linear(12, 5), nn.Softmax(1)), (3, 13, 10)),
    "dense": (nn.Sequential(nn.Conv2d(3, 4, 3), Dense(4, 3), nn.Dropout(0.5), Dense(7, 3), nn.AvgPool2d(2)), (3, 12, 12)),
    "transformer": (nn.Sequential(Block(8, 2), Block(8, 4)), (6, 8)),
    "depthwise": (nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(),
                                nn.Conv2d(8, 8, 5, 1, 2, groups=8), nn.BatchNorm2d(8), nn.Hardswish(), nn.Conv2d(8, 4, 1)),
                  (3, 15, 16)),
    "signal": (nn.Sequential(nn.Conv1d(2, 6, 5, 2), nn.BatchNorm1d(6), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(6, 3, 3)), (2, 40)),
    "padded": (nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), nn.PReLU(4), nn.ConvTranspose2d(4, 3, 2, 2),
                             nn.PixelShuffle(1), nn.Upsample(scale_factor=2)), (2, 7, 6)),
}


@pytest.mark.parametrize("name", MODELS)
def test_whole_models(name):
    model, shape = copy.deepcopy(MODELS[name])
    model = thinned(model.double())
    x = torch.randn(4, *shape, dtype=torch.float64)
    fast = ng.compile(model, x)
    same(model, fast, x)
    same(model, fast, x[:1])
    same(model, fast, torch.randn(9, *shape, dtype=torch.float64))
    if name != "transformer":  # another size of maps
        same(model, fast, torch.randn(3, shape[0], *(side + 7 for side in shape[1:]), dtype=torch.float64))


def test_what_is_folded_and_fused():
    model, shape = copy.deepcopy(MODELS["residual"])
    fast = ng.compile(thinned(model.double()), torch.randn(2, *shape, dtype=torch.float64))
    assert len(kinds(fast, Convolution)) == 10 and len(kinds(fast, Pool)) == 1
    assert sum(step.added is not None for step in kinds(fast, Convolution)) == 3
    assert sum(step.slope == 0.0 for step in kinds(fast, Convolution)) == 6
    assert len(kinds(fast, Call)) == 2  # flatten and softmax


def test_single_precision_and_dense_layers(monkeypatch):
    monkeypatch.setattr(layers, "DENSE", 0.3)
    monkeypatch.setattr(layers, "DENSE_FOURS", 0.3)
    model = nn.Sequential(nn.Conv2d(8, 16, 7, 2, (2, 3)), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding="same"),
                          nn.GELU(), nn.Conv2d(16, 8, 4, padding="same", bias=False), nn.Flatten(), nn.Linear(8 * 9 * 10, 20))
    thinned(model, 1.0)
    with torch.no_grad():
        model[3].weight.mul_(torch.rand_like(model[3].weight) < 0.1)
    x = torch.randn(3, 8, 20, 20)
    fast = ng.compile(model, x)
    assert "1 layers by their" in str(fast) and "3 dense layers" in str(fast)
    torch.testing.assert_close(fast(x), model(x).detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("selector", ["dnw", "set", "edge-popup"])
def test_sparsified_models(selector):
    model = ng.sparsify(copy.deepcopy(MODELS["residual"][0]).double(), density=0.3, selector=selector).eval()
    x = torch.randn(2, 3, 13, 10, dtype=torch.float64)
    same(model, ng.compile(model, x), x)
    assert any(isinstance(layer, ng.layers.Sparse) for layer in model.modules())  # it was left alone


def test_masks_parametrizations_and_hooks_of_others():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4 * 25, 6)).double().eval()
    prune.random_unstructured(model[0], "weight", 0.7)
    prune.l1_unstructured(model[4], "weight", 0.9)
    nn.utils.parametrizations.weight_norm(model[2])
    model[1].register_forward_hook(lambda module, inputs, output: output * 2)
    x = torch.randn(3, 2, 9, 9, dtype=torch.float64)
    fast = ng.compile(model, x)
    assert sum((step.weight != 0).sum() for step in kinds(fast, Convolution)) == 22 + 144 + 60  # masks are applied before
    same(model, fast, x)


def test_shared_layers_and_several_inputs_and_outputs():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.unused = nn.Linear(5, 5), nn.Linear(5, 7)
            self.register_buffer("table", torch.randn(5))

        def forward(self, x, y):
            a, b = self.layer(self.layer(x)), self.layer(y)
            self.unused(a)
            return {"sum": a + b, "twice": (a, self.table * 2), "given": x}

    model = thinned(Shared().double())
    x, y = torch.randn(2, 3, 5, dtype=torch.float64).unbind()
    fast = ng.compile(model, (x, y))
    got, expected = fast(x, y), model(x, y)
    torch.testing.assert_close(got, {"sum": expected["sum"].detach(), "twice": (expected["twice"][0].detach(), model.table * 2),
                                     "given": x})
    got["twice"][1].zero_()
    torch.testing.assert_close(fast(x, y)["twice"][1], model.table * 2)  # results are the caller's


def test_a_result_stays_when_the_next_is_computed():
    model = thinned(nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten()).double())
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64)
    fast = ng.compile(model, x)
    results = [fast(x + number) for number in range(6)]
    for number, result in enumerate(results):
        torch.testing.assert_close(result, model(x + number).detach())


def test_layouts_of_memory_do_not_overlap():
    """A chain of layers all of whose results are read again at the end."""
    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(7))

        def forward(self, x):
            made = [x]
            for number, layer in enumerate(self.layers):
                made.append(layer(made[-1] if number % 3 else made[number // 2]))
                if number == 0:
                    flat = made[1].flatten(1)  # shares the memory of the first result, which nothing else reads at the end
            return torch.stack(made[2:]).sum(0).flatten(1) + flat

    model = thinned(Chain().double())
    x = torch.randn(2, 3, 8, 9, dtype=torch.float64)
    same(model, ng.compile(model, x), x)


def test_no_samples():
    model, shape = copy.deepcopy(MODELS["residual"])
    fast = ng.compile(thinned(model), torch.randn(1, *shape))
    assert fast(torch.zeros(0, *shape)).shape == (0, 5)


def test_control_flow_on_sizes_is_followed():
    class Sized(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(1, 2, 3)

        def forward(self, x):
            y = self.layer(x)
            if x.shape[0] > 3:
                y = -y
            return y * 2 if x.shape[-1] > 8 else y

    model = thinned(Sized().double(), 1.0)
    fast = ng.compile(model, torch.randn(2, 1, 6, 6, dtype=torch.float64))
    for shape in ((2, 1, 6, 6), (5, 1, 6, 6), (3, 1, 6, 12), (4, 1, 9, 9), (1, 1, 6, 6)):
        same(model, fast, torch.randn(shape, dtype=torch.float64))


def test_later_changes_of_the_model_are_not_followed():
    model = thinned(nn.Sequential(nn.Linear(4, 4)))
    x = torch.randn(2, 4)
    fast, before = ng.compile(model, x), model(x).detach()
    with torch.no_grad():
        model[0].weight.fill_(1)
    torch.testing.assert_close(fast(x), before)
    torch.testing.assert_close(fast(x[:1]), before[:1])


def test_copies_and_several_threads():
    model, shape = copy.deepcopy(MODELS["residual"])
    model = thinned(model.double())
    xs = [torch.randn(2, *shape, dtype=torch.float64) for _ in range(20)]
    fast = ng.compile(model, xs[0])
    expected = [model(x).detach() for x in xs]
    with ThreadPoolExecutor(4) as pool:
        for got, y in zip(pool.map(fast, xs), expected):
            torch.testing.assert_close(got, y)
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        torch.testing.assert_close(other(xs[0]), expected[0])


# ---------------------------------------------------------------------------------- what is refused


class Fault(nn.Module):
    """A linear layer with a trick."""

    def __init__(self, trick):
        super().__init__()
        self.layer, self.trick = nn.Linear(4, 4), trick
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        if self.trick == "numbers" and x.sum() > 0:
            return x
        if self.trick == "input":
            x.mul_(2)
        if self.trick == "buffer":
            self.calls.add_(1)
        y = self.layer(x)
        return F.dropout(y, training=True) if self.trick == "dropout" else y + torch.rand_like(y) if self.trick == "noise" else y


@pytest.mark.parametrize("trick, message", [
    ("numbers", "cannot capture it"), ("input", "it changes its input 'x'"), ("buffer", "it changes its buffer 'calls'"),
    ("dropout", "draws random numbers in evaluation"), ("noise", "draws random numbers in evaluation")])
def test_models_that_cannot_be_compiled(trick, message):
    x = torch.ones(2, 4)
    with pytest.raises(InputError, match=message):
        ng.compile(Fault(trick), x)
    assert torch.equal(x, torch.ones(2, 4))


def test_what_is_no_model_or_no_example():
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(InputError, match="give an example of its input"):
        ng.compile(model)
    for wrong in (torch.zeros(0, 4), torch.tensor(1.0), (), (torch.zeros(1, 4), torch.zeros(2, 4)), (torch.zeros(1, 4), 3)):
        with pytest.raises(InputError, match="example"):
            ng.compile(model, wrong)
    with pytest.raises(InputError, match="of torch.bfloat16: use model.float"):
        ng.compile(model.bfloat16(), torch.zeros(1, 4))
    with pytest.raises(InputError, match="compiled for any input, and without an example"):
        ng.compile(nn.Sequential(ng.StaticNeuralGraph(ng.wirings.blocks([2, 3, 2]), ng.TopK(k=4))), torch.zeros(1, 2, 4, 4))
    with pytest.raises(InputError, match="cannot capture it"):
        ng.compile(nn.Linear(4, 4), torch.zeros(1, 5))


def test_wrong_inputs():
    fast = ng.compile(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 16, 2)), torch.zeros(1, 3, 6, 6))
    for inputs, message in (((), "got 0 arguments"), ((torch.zeros(1, 3, 6, 6).double(),), "torch.float32 with 4 dimensions"),
                            ((torch.zeros(3, 6, 6),), "with 4 dimensions"), ((torch.zeros(1, 3, 0, 6),), "none of them empty"),
                            ((1,), "got int"), ((torch.zeros(1, 3, 6, 6, device="meta"),), "on meta"),
                            ((torch.zeros(1, 4, 6, 6),), r"for inputs of shapes \[\(1, 4, 6, 6\)\]"),
                            ((torch.zeros(1, 3, 7, 6),), r"for inputs of shapes \[\(1, 3, 7, 6\)\]"),
                            ((torch.zeros(1, 3, 6, 6, requires_grad=True),), "no gradients")):
        with pytest.raises(InputError, match=message):
            fast(*inputs)
    with pytest.raises(InputError, match="cannot be trained"):
        fast.train()


def test_maps_whose_places_are_no_small_numbers():
    from neuralgraph.inference.convolving import Convolving

    step = Convolution("big", (1, 2, 2**16, 2**16), None, torch.ones(2, 2, 1, 1).numpy(), torch.zeros(2).numpy())
    with pytest.raises(InputError, match=r"maps of 'big' are too large .* 2 channels of 65536 x 65536 pixels"):
        Convolving(step, (1, 2, 2**16, 2**16), (1, 2, 2**16, 2**16), torch.float32, 1)


def test_what_does_not_repeat_is_refused():
    class Drawn(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x):
            return self.layer(x) * random.random()  # not of torch: what was drawn looks like a constant

    with pytest.raises(InputError, match="does not repeat"):
        ng.compile(Drawn(), torch.ones(1, 2))


# ---------------------------------------------------------------------------------- busy machines


def test_runs_on_one_thread_where_there_is_no_room(monkeypatch):
    from neuralgraph.kernels.launch import Crowd

    model, shape = copy.deepcopy(MODELS["residual"])
    model = thinned(model.double())
    x = torch.randn(3, *shape, dtype=torch.float64)
    fast = ng.compile(model, x)
    monkeypatch.setattr(Crowd, "has_room", lambda crowd: False)
    seen = []
    run = layers.LayersLayout.run
    monkeypatch.setattr(layers.LayersLayout, "run", lambda layout, inputs: (seen.append(torch.get_num_threads()), run(layout, inputs))[1])
    same(model, fast, x)
    assert seen == [1, 1] and torch.get_num_threads() == 2
    monkeypatch.setattr(layers.LayersLayout, "run", lambda layout, inputs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fast(x)
    assert torch.get_num_threads() == 2  # whatever happens


FORKED = """
import os, signal, sys, time
import numpy as np
import torch
import neuralgraph as ng
torch.set_num_threads(2)
torch.manual_seed(0)
layers = torch.nn.Sequential(torch.nn.Conv2d(16, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 32, 3)).eval()
with torch.no_grad():
    for layer in (layers[0], layers[2]):  # none is left to torch, which waits for ever itself
        layer.weight.mul_(torch.rand_like(layer.weight) < 0.1)
graph = ng.StaticNeuralGraph(ng.wirings.blocks([16, 32, 32, 10]), ng.TopK(k=900)).eval()
x = torch.randn(4, 16, 64, 64)
for fast in (ng.compile(layers, x), ng.compile(graph)):
    expected = fast(x)
    child = os.fork()
    if child == 0:
        os._exit(0 if np.allclose(fast(x).numpy(), expected.numpy(), atol=1e-5) else 1)
    for attempt in range(600):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.1)
    else:
        os.kill(child, signal.SIGKILL)
        sys.exit("the child waits for ever")
    if status:
        sys.exit("the child failed")
"""


def test_forked_processes():
    """A copy of a process lacks the threads of the first, for which OpenMP would wait for ever."""
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=300)


def test_all_threads_are_tried_again():
    from neuralgraph.kernels.launch import Crowd

    crowd, made = Crowd(), []
    for number in range(3 * Crowd.ALONE):
        made.append(crowd.has_room())
        crowd.took(made[-1], 3.0 if made[-1] and number < 100 else 0.5 if made[-1] else 1.0)  # room again after 100 runs
    alone = [number for number, room in enumerate(made) if not room]
    assert alone[0] == 1 and alone[1:] == list(range(4, 4 + Crowd.ALONE)) + list(range(70, 70 + Crowd.ALONE))
