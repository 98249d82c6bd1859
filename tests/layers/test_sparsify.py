"""Sparse layers inside ordinary models."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import neuralgraph as ng
from neuralgraph.errors import InputError, SelectionError, UnknownNameError
from neuralgraph.layers.sparse import count


def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 12, 1, bias=False),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 5))


def largest(weight, k):
    mask = torch.zeros(weight.numel(), dtype=torch.bool)
    mask[weight.reshape(-1).abs().argsort(stable=True)[weight.numel() - k:]] = True
    return mask.view(weight.shape)


def test_forward_is_masked_and_the_gradient_is_dense(float64):
    dense = model()
    sparse = ng.sparsify(dense, 0.25)
    twin = copy.deepcopy(dense)
    ks = {"3": 18, "4": 24, "7": 60}
    with torch.no_grad():
        for name, k in ks.items():
            layer = twin.get_submodule(name)
            layer.weight.mul_(largest(layer.weight, k))
            assert sparse.get_submodule(name).k == k
    x = torch.randn(4, 3, 6, 6)
    sparse(x).square().sum().backward()
    twin(x).square().sum().backward()
    torch.testing.assert_close(sparse(x), twin(x), rtol=0, atol=0)
    for a, b in zip(sparse.parameters(), twin.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=1e-12)
    assert (sparse[4].weight.grad[~sparse[4].real()] != 0).any()


def test_density_one_is_the_identity():
    dense = model()
    sparse = ng.sparsify(dense, 1.0)
    x = torch.randn(4, 3, 6, 6)
    sparse(x).sum().backward(), dense(x).sum().backward()
    assert torch.equal(sparse(x), dense(x))
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(sparse.parameters(), dense.parameters()))


def test_channels_last_is_really_pruned():
    layer = ng.SparseConv2d(8, 8, 3, density=0.1).to(memory_format=torch.channels_last)
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    assert (layer.effective_weight() != 0).sum() == 58
    x = torch.randn(2, 8, 5, 5).to(memory_format=torch.channels_last)
    masked = layer.weight * largest(layer.weight.detach().contiguous(), 58)
    torch.testing.assert_close(layer(x), nn.functional.conv2d(x, masked, layer.bias))


def test_state_dicts_go_both_ways():
    dense, sparse = model(), ng.sparsify(model(), 0.3)
    sparse.load_state_dict(dense.state_dict())
    dense.load_state_dict(sparse.state_dict())
    assert list(dense.state_dict()) == list(sparse.state_dict())


def test_densify_bakes_the_zeros_in():
    sparse = ng.sparsify(model(), 0.3)
    baked = ng.densify(sparse)
    x = torch.randn(4, 3, 6, 6)
    sparse.eval(), baked.eval()
    assert torch.equal(baked(x), sparse(x))
    assert type(baked[4]) is nn.Conv2d and type(sparse[4]) is ng.SparseConv2d
    assert (baked[7].weight != 0).sum() == sparse[7].k and "k" not in vars(baked[7])
    assert ng.densify(sparse, inplace=True) is sparse and type(sparse[4]) is nn.Conv2d


def test_maps_skips_and_the_first_layer():
    dense = model()
    chosen = ng.sparsify(dense, {"0": 0.5, "7": 0.1})
    assert [type(chosen[i]).__name__ for i in (0, 3, 4, 7)] == ["SparseConv2d", "Conv2d", "Conv2d", "SparseLinear"]
    skipped = ng.sparsify(dense, 0.5, skip=["3"], first_layer_dense=False)
    assert [type(skipped[i]).__name__ for i in (0, 3, 4, 7)] == ["SparseConv2d", "Conv2d", "SparseConv2d", "SparseLinear"]
    assert type(dense[4]) is nn.Conv2d
    assert ng.sparsify(dense, 0.5, inplace=True) is dense and type(dense[4]) is ng.SparseConv2d


def resnet50_weights():
    """The weight counts of ResNet-50's 53 convolutions and its classifier as a 1x1 convolution."""
    sizes, channels = [64 * 3 * 49], 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            sizes += [channels * width, width * width * 9, width * 4 * width]
            if block == 0:
                sizes.append(channels * width * 4)
            channels = width * 4
    return [*sizes, 2048 * 1000]


@pytest.mark.parametrize("density, all_sparse, first_dense", [
    (0.1, 2_550_318, 2_558_785), (0.2, 5_100_607, 5_108_133), (0.3, 7_650_902, 7_657_487)])
def test_resnet50_counts(density, all_sparse, first_dense):
    """The numbers of weights behind the paper's Table 4, to the last weight."""
    sizes = resnet50_weights()
    assert len(sizes) == 54 and sum(sizes) == 25_502_912
    assert sum(count(density, n) for n in sizes) == all_sparse
    assert sizes[0] + sum(count(density, n) for n in sizes[1:]) == first_dense


@pytest.mark.parametrize("call, error, message", [
    (lambda: ng.sparsify(model(), 0), InputError, "above 0 and at most 1, got 0"),
    (lambda: ng.sparsify(nn.Linear(10, 10), 5.0), InputError, "got 5.0"),
    (lambda: ng.sparsify(model(), 1.2), InputError, "got 1.2"),
    (lambda: ng.sparsify(model(), {"4": -1}), InputError, "got -1"),
    (lambda: ng.sparsify(model(), {"44": 0.5}), UnknownNameError, "unknown layer '44'; did you mean '4'"),
    (lambda: ng.sparsify(model(), skip=["1"]), UnknownNameError, "unknown layer '1'"),
    (lambda: ng.sparsify(model(), skip="3"), InputError, "skip must be a list of names, got '3'"),
    (lambda: ng.sparsify([model()]), InputError, "expected a torch.nn.Module, got list"),
    (lambda: ng.sparsify(nn.ReLU()), InputError, "no torch.nn.Conv2d"),
    (lambda: ng.sparsify(ng.SparseLinear(3, 3)), InputError, "sparse already"),
])
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_bad_map_changes_nothing():
    dense = model()
    with pytest.raises(InputError):
        ng.sparsify(dense, {"4": 0.5, "7": 2}, inplace=True)
    assert type(dense[4]) is nn.Conv2d


def test_nan_weights():
    layer = ng.SparseLinear(4, 4)
    layer.weight.data[0, 0] = float("nan")
    with pytest.raises(SelectionError, match="diverged"):
        layer(torch.zeros(1, 4))


def encoder(kind=nn.TransformerEncoderLayer):
    torch.manual_seed(0)
    return nn.TransformerEncoder(kind(16, 4, 32, dropout=0.0, batch_first=True), num_layers=2)


def encoder_layer():
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True, activation="gelu")


@pytest.mark.parametrize("make", [encoder, encoder_layer])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_transformers_do_not_bypass_the_selection(make, training, padded):
    """Their fast path in evaluation reads the weights of the layers without calling them."""
    dense = make().train(training)
    sparse = ng.sparsify(dense, 0.1, first_layer_dense=False)
    baked = ng.densify(sparse)
    x = torch.randn(3, 5, 16)
    mask = torch.arange(5) >= torch.tensor([[5], [3], [4]]) if padded else torch.zeros(3, 5, dtype=torch.bool)
    with torch.no_grad():
        y, expected = (net(x, src_key_padding_mask=mask)[~mask] for net in (sparse, baked))
        assert not torch.allclose(y, dense(x, src_key_padding_mask=mask)[~mask])
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    assert [type(m) for m in baked.modules()] == [type(m) for m in dense.modules()]
    again = copy.deepcopy(sparse)
    again.load_state_dict(dense.state_dict())
    with torch.no_grad():
        assert torch.equal(again(x, src_key_padding_mask=mask)[~mask], y)
    attention = next(m for m in sparse.modules() if isinstance(m, nn.MultiheadAttention))
    assert not isinstance(attention.out_proj, ng.SparseLinear)


class MyEncoderLayer(nn.TransformerEncoderLayer):
    pass


class MyLinear(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def test_subclasses_stay_dense_only_if_asked():
    net = nn.Sequential(nn.Linear(4, 4), MyLinear(4, 4), nn.Linear(4, 4))
    with pytest.raises(InputError, match=r"'1' \(MyLinear\).*skip"):
        ng.sparsify(net, 0.5)
    chosen = ng.sparsify(net, 0.5, skip=["1"])
    assert [type(layer) for layer in chosen] == [nn.Linear, MyLinear, ng.SparseLinear]
    assert type(ng.sparsify(net, {"2": 0.5})[1]) is MyLinear
    with pytest.raises(InputError, match="MyLinear"):
        ng.sparsify(net, {"1": 0.5})
    first = ng.sparsify(net[1:], 0.5, skip=["1"])  # the first layer is dense already
    assert type(first[1]) is ng.SparseLinear
    mixed = ng.sparsify(ng.sparsify(net, {"2": 0.5}), {"0": 0.5})
    assert [type(layer) for layer in mixed] == [ng.SparseLinear, MyLinear, ng.SparseLinear]
    with pytest.raises(InputError, match="MyEncoderLayer.*'layers.0.linear1'"):
        ng.sparsify(encoder(MyEncoderLayer), 0.5, first_layer_dense=False)


@pytest.mark.parametrize("call, message", [
    (lambda: ng.sparsify(nn.Linear(3, 3), 0.5), "only one.*first_layer_dense=False"),
    (lambda: ng.sparsify(nn.Linear(3, 3), {}), "names no layer"),
    (lambda: ng.sparsify(model(), 0.5, skip=["0", "3", "4", "7"]), "skip"),
])
def test_nothing_left_to_make_sparse(call, message):
    with pytest.raises(InputError, match=message):
        call()


class Branches(nn.Module):
    """Its classifier is registered first, and two convolutions meet the input."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(8, 5)
        self.left, self.right = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 1)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 8, 2, 2, groups=2)

    def forward(self, x):
        x = torch.relu(self.left(x) + self.right(x))
        return self.head(torch.relu(self.up(torch.relu(self.body(x)))).mean((2, 3)))


class Looping(Branches):
    """What torch.fx cannot trace."""

    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


IMAGES = torch.rand(4, 3, 8, 8)


def test_the_first_layers_are_those_that_the_input_meets():
    sparse = ng.sparsify(Branches(), 0.5)
    assert [name for name, layer in sparse.named_modules() if isinstance(layer, ng.layers.Sparse)] == \
        ["head", "body", "up"]
    run = ng.sparsify(Looping(), 0.5, example=IMAGES)
    assert [type(layer) for layer in run.children()] == [type(layer) for layer in sparse.children()]
    with pytest.warns(UserWarning, match="cannot follow the data.*'head'"):
        assert type(ng.sparsify(Looping(), 0.5).left) is ng.SparseConv2d
    embedded = ng.sparsify(nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 4)), 0.5, example=torch.arange(5))
    assert type(embedded[0]) is nn.Embedding


def test_the_summary_says_what_stayed_dense_and_why():
    table = ng.layers.summary(ng.sparsify(Branches(), 0.25, skip=["up"]))
    assert [(row.name, row.weights, row.real, row.reason) for row in table.layers] == [
        ("head", 40, 10, ""), ("left", 216, None, "the first layer"), ("right", 24, None, "the first layer"),
        ("body", 576, 144, ""), ("up", 128, None, "in skip")]
    assert (table.weights, table.real) == (616, 154)
    assert table.density == (154 + 216 + 24 + 128) / 984
    assert "together" in str(table) and "dense: in skip" in str(table)


def test_patterns():
    sparse = ng.sparsify(Branches(), {"*t": 0.5, "left": 0.25, "b*": 1})
    assert [layer.k if isinstance(layer, ng.layers.Sparse) else None for layer in sparse.children()] == \
        [None, 54, 12, 576, None]
    with pytest.raises(UnknownNameError, match="unknown layer 'layers"):
        ng.sparsify(Branches(), {"layers.*": 0.5})


def test_erdos_renyi_budget():
    """Densities in proportion to sum / product of the dimensions, capped at 1, 30 % of all weights together."""
    sparse = ng.sparsify(Branches(), 0.3, budget="erdos-renyi-kernel", first_layer_dense=False)
    layers = [layer for layer in sparse.children()]
    size = [layer.num_weights for layer in layers]
    raw = [sum(layer.weight.shape) / layer.num_weights for layer in layers]
    # 40, 24 and 128 weights: by hand, the classifier and the 1x1 convolution are full
    full = [True, False, True, False, False]
    factor = (0.3 * sum(size) - 40 - 24) / sum(r * n for r, n, f in zip(raw, size, full) if not f)
    for layer, r, is_full in zip(layers, raw, full):
        assert factor * r > 1 if is_full else factor * r <= 1
        assert layer.k == (layer.num_weights if is_full else count(factor * r, layer.num_weights))
    assert abs(sum(layer.k for layer in layers) - 0.3 * sum(size)) < 3


def test_all_layers_compete():
    """per="model": the k largest of all, as of one vector."""
    dense = Branches()
    sparse = ng.sparsify(dense, 0.2, per="model", first_layer_dense=False)
    names = ["head", "left", "right", "body", "up"]
    flat = torch.cat([dense.get_submodule(name).weight.detach().flatten() for name in names])
    mask = largest(flat, count(0.2, 984))
    real = torch.cat([sparse.get_submodule(name).real().flatten() for name in names])
    assert torch.equal(real, mask) and sum(sparse.get_submodule(name).k for name in names) == 197
    y = sparse(IMAGES)
    y.sum().backward()
    with torch.no_grad():
        for name, part in zip(names, mask.split([40, 216, 24, 576, 128])):
            weight = dense.get_submodule(name).weight
            weight.mul_(part.view(weight.shape))
    assert torch.equal(y, dense(IMAGES))
    dense(IMAGES).sum().backward()
    for name in names:
        torch.testing.assert_close(sparse.get_submodule(name).weight.grad, dense.get_submodule(name).weight.grad)
    assert torch.equal(copy.deepcopy(sparse)(IMAGES), y)


@pytest.mark.parametrize("per", ["layer", "node", "model"])
@pytest.mark.parametrize("granularity", ["weight", "kernel"])
@pytest.mark.parametrize("selector", ["dnw", "rigl", "edge-popup", "feather", "random", "l1-anneal", "targeted-dropout",
                                      "set", "snfs", "granet", "srigl", "cht", "chts", "snip", "synaptic-strength"])
def test_every_selector_in_layers(selector, granularity, per):
    """Trained in a plain loop, it evaluates, bakes in, traces and exports to the same numbers."""
    known = ng.selectors.options_of(selector)
    options = {"every": 2} if "every" in known else {}
    make = lambda: ng.sparsify(Branches(), 0.25, selector=selector, per=per, granularity=granularity,
                               selector_options=options)
    if per == "node" and "per" not in known:
        with pytest.raises(InputError, match="knows no groups"):
            make()
        return
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    ng.rewire(model, optimizer, total_steps=8)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    for step in range(8):
        torch.manual_seed(step)
        optimizer.zero_grad()
        (model(IMAGES) - 1).square().mean().backward()
        optimizer.step()
    changed = [name for name, value in model.named_parameters() if not torch.equal(value, before[name])]
    assert ("body.weight" in changed) == (selector != "edge-popup")
    assert any("scores" in name for name in changed) == (selector == "edge-popup")
    model.eval()
    with torch.no_grad():
        y = model(IMAGES)
        for layer in (model.head, model.body, model.up):
            assert not layer.effective_weight()[~layer.real()].any()
            assert selector == "feather" or {"every", "drop"} <= known.keys() or layer.effective_weight()[layer.real()].all()
        assert torch.equal(model(IMAGES), y)
        assert torch.equal(model.requires_grad_(True)(IMAGES), y)
        assert torch.equal(ng.densify(model)(IMAGES), y)
    again = make()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(IMAGES), y)
    if granularity == "kernel":
        mask = model.body.real().view(64, 9)
        assert torch.equal(mask.any(1), mask.all(1))
    if per == "node":
        assert len({int(row.sum()) for row in model.body.real().view(8, -1)}) == 1
    if per == "layer":
        traced = torch.jit.trace(model, IMAGES)
        assert torch.equal(traced(IMAGES), y)
        assert torch.equal(torch.export.export(model, (IMAGES,)).module()(IMAGES), y)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("selector, per", [("dnw", "layer"), ("dnw", "node"), ("rigl", "layer"), ("feather", "layer")])
def test_compiled_without_a_break(selector, per, training):
    torch._dynamo.reset()
    model = ng.sparsify(Branches(), 0.25, selector=selector, per=per).train(training)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    ng.rewire(model, optimizer, total_steps=8)
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for net in (compiled, twin):
        net(IMAGES).square().sum().backward()
    torch.testing.assert_close(compiled(IMAGES), twin(IMAGES))
    for one, other in zip(model.parameters(), twin.parameters()):
        torch.testing.assert_close(one.grad, other.grad)
    optimizer.step()


def test_ties_are_broken_equally_when_traced():
    layer = ng.SparseLinear(40, 30, density=0.1).eval()
    with torch.no_grad():
        layer.weight.copy_(torch.randn(30, 40, generator=torch.Generator().manual_seed(0)).mul(2).round())
    x = torch.randn(5, 40)
    assert torch.equal(torch.jit.trace(layer, x)(x), layer(x))
    assert torch.equal(layer.real(), largest(layer.weight.detach(), 120))


def test_large_layers_trace_to_the_same_numbers():
    """More than 2^17 weights, which the compiled ranking serves when nothing is traced."""
    layer = ng.SparseLinear(400, 400, density=0.1).eval()
    x = torch.randn(2, 400)
    assert torch.equal(torch.jit.trace(layer, x)(x), layer(x))


def test_a_selection_is_kept_until_a_weight_changes(monkeypatch):
    model, calls = ng.sparsify(Branches(), 0.25).eval(), []
    select = ng.TopK.select
    monkeypatch.setattr(ng.TopK, "select", lambda self, weight: calls.append(1) or select(self, weight))
    with torch.no_grad():
        y = model(IMAGES)
        assert len(calls) == 3 and torch.equal(model(IMAGES), y) and len(calls) == 3
        model.body.weight.mul_(-1)
        assert not torch.equal(model(IMAGES), y) and len(calls) == 4
        model.up.weight.data.neg_()  # of which PyTorch keeps no count
        assert torch.equal(model(IMAGES), ng.densify(model)(IMAGES)) and len(calls) == 8
        model.body.selector.k = 10
        assert (model.body.effective_weight() != 0).sum() == 10 == model.body.k
    model(IMAGES).sum().backward()
    assert (model.body.weight.grad != 0).sum() > 10


LAYERS = {
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1, groups=2), (2, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (2, 4, 9, 8)),
    "conv3d": (lambda: nn.Conv3d(4, 6, 2, stride=2), (2, 4, 6, 5, 4)),
    "transposed1d": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1), (2, 4, 9)),
    "transposed2d": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, dilation=2), (2, 4, 5, 6)),
    "transposed3d": (lambda: nn.ConvTranspose3d(4, 6, 2), (2, 4, 3, 4, 5)),
    "linear": (lambda: nn.Linear(4, 6, bias=False), (2, 3, 4)),
    "embedding": (lambda: nn.Embedding(8, 6, padding_idx=0), None),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_each_kind_of_layer_equals_the_masked_one(kind, float64):
    make, shape = LAYERS[kind]
    dense = make()
    sparse, twin = ng.sparsify(dense, 0.3, first_layer_dense=False), copy.deepcopy(dense)
    x = torch.randn(shape) if shape else torch.tensor([[0, 3, 7], [2, 2, 1]])
    k = count(0.3, dense.weight.numel())
    with torch.no_grad():
        twin.weight.mul_(largest(dense.weight.detach(), k))
    assert list(sparse.state_dict()) == list(dense.state_dict()) and sparse.k == k
    for training in (True, False):
        y = sparse.train(training)(x)
        assert torch.equal(y, twin(x))
    sparse(x).sum().backward(), twin(x).sum().backward()
    torch.testing.assert_close(sparse.weight.grad, twin.weight.grad)
    baked = ng.densify(sparse)
    assert type(baked) is type(dense) and torch.equal(baked.weight, twin.weight)


@pytest.mark.parametrize("options", [{}, {"kdim": 6, "vdim": 4}, {"batch_first": True, "bias": False}])
def test_attention_equals_the_masked_one(options, float64):
    torch.manual_seed(0)
    dense = nn.MultiheadAttention(8, 2, **options)
    sparse, twin = ng.sparsify(dense, 0.25, first_layer_dense=False), copy.deepcopy(dense)
    with torch.no_grad():
        for name, weight in twin.named_parameters():
            if "weight" in name:
                weight.mul_(largest(weight, count(0.25, weight.numel())))
    query, key, value = (torch.randn(3, 5, size) for size in (8, options.get("kdim", 8), options.get("vdim", 8)))
    for training in (True, False):
        for net in (sparse, twin):
            net.train(training).zero_grad()
        (y, attention), (wanted, also) = sparse(query, key, value), twin(query, key, value)
        torch.testing.assert_close(y, wanted), torch.testing.assert_close(attention, also)
        y.sum().backward(), wanted.sum().backward()
        for one, other in zip(sparse.parameters(), twin.parameters()):
            torch.testing.assert_close(one.grad, other.grad)
    baked = ng.densify(sparse)
    assert type(baked) is nn.MultiheadAttention and list(baked.state_dict()) == list(dense.state_dict())
    torch.testing.assert_close(baked(query, key, value)[0], y)


def tied():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 4))
    model[3].weight = model[2].weight
    return model


def changed(change):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    change(model[1])
    return model


@pytest.mark.parametrize("make, message", [
    (tied, "'2' sparse: it shares its weight with 2.weight, 3.weight"),
    (lambda: changed(nn.utils.parametrizations.weight_norm), "'1' sparse: it is parametrized"),
    (lambda: changed(nn.utils.parametrizations.spectral_norm), "'1' sparse: it is parametrized"),
    (lambda: changed(lambda layer: nn.utils.spectral_norm(layer)), "'1' sparse: it has a weight that spectral_norm"),
    (lambda: changed(lambda layer: prune.l1_unstructured(layer, "weight", 0.5)),
     "'1' sparse: it has a weight that torch.nn.utils.prune"),
    (lambda: nn.Sequential(nn.Linear(4, 4), nn.Embedding(4, 4, max_norm=1.0)), "'1' sparse: it is an embedding with max_norm"),
])
def test_weights_that_are_not_the_layers_own_are_refused(make, message):
    model = make()
    with pytest.raises(InputError, match=message):
        ng.sparsify(model, 0.5)
    kept = [str(number) for number in range(1, len(model)) if not isinstance(model[number], nn.ReLU)]
    with pytest.raises(InputError, match="nothing is left"):
        ng.sparsify(model, 0.5, skip=kept)


@pytest.mark.parametrize("call, error, message", [
    (lambda: ng.sparsify(Branches(), 0.5, per="nodes"), UnknownNameError, "did you mean 'node'"),
    (lambda: ng.sparsify(Branches(), 0.5, granularity="filter"), UnknownNameError, "granularity 'filter'"),
    (lambda: ng.sparsify(Branches(), 0.5, budget="erk"), UnknownNameError, "budget 'erk'"),
    (lambda: ng.sparsify(Branches(), 0.5, selector="rigle"), UnknownNameError, "did you mean 'rigl'"),
    (lambda: ng.sparsify(Branches(), 0.5, selector="complete"), InputError, "keeps everything"),
    (lambda: ng.sparsify(Branches(), 0.5, selector_options={"dorp": 1}), UnknownNameError, "'dorp'"),
    (lambda: ng.sparsify(Branches(), 0.5, per="group", selector_options={"group": 3}), SelectionError, "does not divide"),
    (lambda: ng.sparsify(Branches(), {"body": 0.5, "up": 0.2}, per="model"), InputError, "a number, not a map"),
    (lambda: ng.sparsify(Branches(), {"body": 0.5}, budget="erdos-renyi-kernel"), InputError, "one density"),
])
def test_bad_ways_to_choose(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_what_cannot_be_served_changes_nothing():
    model = Branches()
    with pytest.raises(SelectionError):
        ng.sparsify(model, 0.5, per="group", selector_options={"group": 4}, skip=["body"], inplace=True)
    assert not [layer for layer in model.modules() if hasattr(layer, "_choices") or hasattr(layer, "selector")]
