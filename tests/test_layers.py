"""Sparse layers inside ordinary models."""

import copy

import pytest
import torch
from torch import nn

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
