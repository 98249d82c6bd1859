"""Sparse layers equal the masked ones, in output and gradient, however they are used."""

import copy

import pytest
import torch
from branches import IMAGES, Branches, encoder, encoder_layer, largest, model
from torch import nn

import neuralgraph as ng
from neuralgraph.errors import SelectionError
from neuralgraph.layers.sparse import count


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


def test_nan_weights():
    layer = ng.SparseLinear(4, 4)
    layer.weight.data[0, 0] = float("nan")
    with pytest.raises(SelectionError, match="diverged"):
        layer(torch.zeros(1, 4))


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
