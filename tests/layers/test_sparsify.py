"""Which layers of ordinary models are made sparse, how much, and what is refused."""

import copy

import pytest
import torch
from branches import IMAGES, Branches, encoder, largest, model
from torch import nn
from torch.nn.utils import prune

import neuralgraph as ng
from neuralgraph.errors import InputError, SelectionError, UnknownNameError
from neuralgraph.layers.sparse import count


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
        with pytest.raises(InputError, match="does not let weights compete within nodes"):
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
