"""Dead channels removed for good, scales moved into kernels, channels silenced by their norms: the same outputs."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from small_nets import NETS, ResNet, conv, pruned, vgg
from torch import nn

import neuralgraph as ng
from neuralgraph.errors import InputError
from neuralgraph.layers import absorb_scales, scale_penalty, shrink, slim


def outputs(model, x):
    with torch.no_grad():
        y = model(x)
    return y if isinstance(y, tuple) else (y,)


def assert_same(small, model, x, tolerance=1e-9):
    for y, wanted in zip(outputs(small, x), outputs(model, x)):
        torch.testing.assert_close(y, wanted, rtol=tolerance, atol=tolerance * float(wanted.abs().max()) + 1e-30)


@pytest.mark.parametrize("name", NETS)
@settings(max_examples=8)
@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.05, 0.3, 0.8]), zeros=st.sampled_from([0.1, 0.4, 0.8]))
def test_a_smaller_model_of_equal_outputs(name, seed, share, zeros):
    """Whatever is pruned, at the example's size and, where the model takes them, at others."""
    model = pruned(name, seed, share, zeros)
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    before = copy.deepcopy(model.state_dict())
    small, report = shrink(model, x)
    assert_same(small, model, x)
    if name != "vgg":
        assert_same(small, model, torch.randn(3, 3, 10, 17, dtype=torch.float64))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert type(small) is type(model)
    sizes = [sum(parameter.numel() for parameter in net.parameters()) for net in (model, small)]
    assert report.parameters[0] == sizes[0] and report.parameters[1] == sizes[1] and str(sizes[1]) in str(report)
    for layer, (inputs, made), (fewer_inputs, fewer) in report.layers:
        assert 0 < fewer_inputs <= inputs and 0 < fewer <= made and small.get_submodule(layer).weight.numel() > 0
    again, nothing = shrink(small, x)
    assert_same(again, small, x)


@pytest.mark.parametrize("name", ["vgg", "resnet", "densenet"])
def test_single_precision(name):
    for seed in range(4):
        model = pruned(name, seed, dtype=torch.float32)
        x = torch.randn(2, 3, 12, 12)
        assert_same(shrink(model, x)[0], model, x, 1e-5)


def test_a_model_in_training_stays_so():
    """What is constant is found out in evaluation, moments stay, and the smaller model trains on."""
    model = pruned("resnet", 5, share=0.3).train()
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    small, _ = shrink(model, x)
    assert all(layer.training for layer in small.modules())
    assert_same(small.eval(), model.eval(), x)


def test_nothing_is_removed_of_a_full_model():
    for name in NETS:
        model = pruned(name, 0, share=1.1, zeros=0)
        small, report = shrink(model, torch.randn(2, 3, 12, 12, dtype=torch.float64))
        assert report.layers == () and report.parameters[0] == report.parameters[1]


def chain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1), nn.ReLU(),
                         nn.Conv2d(3, 2, 1))


def test_what_goes_by_hand():
    """Channel 0 is read by nobody; 1 and 3 are the constants 2 and 4, of which one stays and stands for both."""
    model, x = chain(), torch.randn(2, 1, 6, 6)
    with torch.no_grad():
        model[2].weight[:, 0] = 0
        model[0].weight[[1, 3]] = 0
        model[0].bias[[1, 3]] = torch.tensor([2.0, 4.0])
    small, report = shrink(model, x)
    assert report.layers == (("0", (1, 4), (1, 2)), ("2", (4, 3), (2, 3)))
    assert torch.equal(small[0].weight[1], model[0].weight[2]) and torch.equal(small[2].weight[:, 1], model[2].weight[:, 2])
    torch.testing.assert_close(small[2].weight[:, 0], model[2].weight[:, 1] + 2 * model[2].weight[:, 3])
    assert_same(small, model, x, 1e-5)


def test_constants_go_into_biases_where_nothing_is_padded():
    model, x = chain(), torch.randn(2, 1, 6, 6)
    with torch.no_grad():
        model[2].weight[1] = 0
        model[2].bias[1] = 3
    small, report = shrink(model, x)
    torch.testing.assert_close(small[4].bias, model[4].bias + 3 * model[4].weight[:, 1, 0, 0])
    assert small[4].weight.shape == (2, 2, 1, 1)
    model[4] = nn.Conv2d(3, 2, 1, bias=False)
    small, _ = shrink(model, x)
    torch.testing.assert_close(small[4].bias, 3 * model[4].weight[:, 1, 0, 0])  # it has got one
    assert_same(small, model, x, 1e-5)


def test_a_row_that_nobody_reads_frees_what_it_reads():
    model, x = chain(), torch.randn(2, 1, 6, 6)
    with torch.no_grad():
        model[4].weight[:, 0] = 0
        model[2].weight[1:, 2] = 0  # only output 0 reads channel 2
    small, report = shrink(model, x)
    assert (small[0].out_channels, small[2].out_channels) == (3, 2)
    assert_same(small, model, x, 1e-5)


def test_a_channel_of_a_sum_goes_where_all_branches_are_dead():
    model = ResNet().eval()
    x = torch.randn(2, 3, 12, 12)
    block, stem = model.blocks[0], model.stem
    with torch.no_grad():
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.bias.uniform_(-1, -0.5)
        block.second[0].weight[[1, 2]] = 0
        assert shrink(model, x)[0].stem[0].out_channels == 8  # the other branch is alive
        stem[0].weight[2] = 0  # relu(beta < 0) = 0 in the branch, beta < 0 after the sum
        small, _ = shrink(model, x)
    assert small.stem[0].out_channels == 7 == small.blocks[0].second[0].out_channels == small.blocks[1].skip[0].in_channels
    assert_same(small, model, x, 1e-5)


def test_what_is_not_understood_is_left_whole_and_named():
    model = pruned("gated", 0, share=0.3, zeros=0.8)
    small, report = shrink(model, torch.randn(2, 3, 12, 12, dtype=torch.float64))
    reasons = " ".join(report.left.values())
    assert {"twice"} <= set(report.left)
    for reason in ("mul: not understood", "chunk: not understood", "Conv2d: is called several times",
                   "view: not understood"):
        assert reason in reasons, report.left
    assert small.gate.weight.shape == (8, 8, 1, 1) and "left whole: twice, Conv2d: is called" in str(report)
    assert small.a[0].out_channels < 8


class Odd(nn.Module):
    """Its code depends on a number of channels behind torch.fx's back."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.b(self.a(x) * (1.0 if self.a.out_channels == 4 else 2.0))


class Asks(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = self.a(x)
        return self.b(x) / x.shape[1]


class Looping(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_models_that_cannot_be_followed():
    x = torch.randn(1, 3, 4, 4)
    odd = Odd().eval()
    with torch.no_grad():
        odd.a.weight[0], odd.a.bias[0] = 0, 0
    with pytest.raises(InputError, match="depends on how many there are"):
        shrink(odd, x)
    asks = Asks()
    asks.load_state_dict(odd.state_dict())
    small, report = shrink(asks, x)
    assert report.layers == () and "getattr: asks for a number of channels" in report.left.values()
    for call in (shrink, absorb_scales):
        with pytest.raises(InputError, match="torch.fx cannot trace it"):
            call(Looping(), x)
        with pytest.raises(InputError, match="cannot be run on this example"):
            call(vgg(), torch.randn(1, 5, 4, 4))
        with pytest.raises(InputError, match="expected a torch.nn.Module, got list"):
            call([], x)


def test_sparse_models_become_small_dense_ones():
    torch.manual_seed(0)
    model = ng.sparsify(vgg(), 0.05, granularity="kernel", selector="synaptic-strength").eval()
    x = torch.randn(2, 3, 12, 12)
    small, report = shrink(model, x)
    assert not [layer for layer in small.modules() if isinstance(layer, ng.layers.Sparse)]
    assert report.parameters[1] < report.parameters[0] / 2
    assert_same(small, model, x, 1e-5)
    small.train()(x).sum().backward()  # it can be trained on
    assert all(parameter.grad is not None for parameter in small.parameters())


def test_shared_parameters_stay():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    model[2].weight = model[0].weight
    with torch.no_grad():
        model[4].weight[:, 1] = 0
    small, report = shrink(model, torch.randn(2, 4))
    assert report.left["2"] == "Linear: shares its parameters" and report.layers == ()


# Scales moved into kernels


@pytest.mark.parametrize("name", NETS)
@settings(max_examples=4)
@given(seed=st.integers(0, 10**6))
def test_absorbed_scales_leave_the_function(name, seed):
    model = pruned(name, seed, share=1.1, zeros=0)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight[0] = 0
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    absorbed, left = absorb_scales(model, x)
    assert_same(absorbed, model, x)
    for key, layer in absorbed.named_modules():
        if isinstance(layer, (nn.BatchNorm2d, nn.InstanceNorm2d)):
            moved = key not in left
            old = model.get_submodule(key).weight
            assert torch.equal(layer.weight, old.sign() if moved else old), key
            assert layer.weight.requires_grad != moved


def test_which_scales_move():
    names = {name: absorb_scales(pruned(name, 0, 1.1, 0), torch.randn(1, 3, 12, 12).double())[1] for name in NETS}
    assert names["vgg"] == {} and names["densenet"] == {}
    assert {key: reason.split(": ")[1] for key, reason in names["resnet"].items()} == dict.fromkeys(
        ["stem.1", "blocks.0.second.1", "blocks.1.second.1", "blocks.1.skip.1", "blocks.2.second.1"],
        "a sum has several scales")
    assert names["mixed"] == {"layers.4": "layers.5 is in the way: it is not homogeneous"}
    assert set(names["gated"]) == {"b.1", "c.1"} and "mul: not understood" in names["gated"]["b.1"]
    with pytest.raises(InputError, match="absorb scales first"):
        absorb_scales(ng.sparsify(vgg(), 0.5), torch.randn(1, 3, 12, 12))


def test_absorbed_kernels_by_hand():
    model = nn.Sequential(nn.BatchNorm2d(2), nn.PReLU(), nn.Conv2d(2, 2, 1, groups=2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([-2.0, 0.5])), model[0].bias.copy_(torch.tensor([6.0, 1.0]))
        model[2].weight.copy_(torch.tensor([3.0, 4.0]).view(2, 1, 1, 1))
    absorbed, _ = absorb_scales(model, torch.zeros(1, 2, 3, 3))
    assert absorbed[0].weight.tolist() == [-1, 1] and absorbed[0].bias.tolist() == [3, 2]
    assert absorbed[2].weight.flatten().tolist() == [6, 2]


# Network slimming


def test_slimming_silences_the_smallest_scales_of_all():
    """The share of all channels with the smallest |gamma|; then they can be removed."""
    model = pruned("vgg", 3, share=1.1, zeros=0)
    norms = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    size = torch.cat([norm.weight.detach().abs() for norm in norms.values()])
    slimmed, masks = slim(model, 0.4)
    threshold = size.sort().values[int(0.4 * 28)]
    assert list(masks) == list(norms) and sum(int((~mask).sum()) for mask in masks.values()) == 11
    for name, norm in norms.items():
        assert torch.equal(masks[name], norm.weight.abs() >= threshold)
        new = slimmed.get_submodule(name)
        assert torch.equal(new.weight, norm.weight * masks[name]) and torch.equal(new.bias, norm.bias * masks[name])
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    small, _ = shrink(slimmed, x)
    assert_same(small, slimmed, x)
    assert [small[place][1].num_features for place in (0, 1, 3)] == [int(mask.sum()) for mask in masks.values()]
    penalty = scale_penalty(model, 0.5)
    torch.testing.assert_close(penalty, 0.5 * size.sum())
    penalty.backward()
    assert torch.equal(norms["0.1"].weight.grad, 0.5 * norms["0.1"].weight.detach().sign())


def test_slimming_of_a_graph():
    """Edges that leave silent nodes have no strength."""
    wiring = ng.wirings.blocks([3, 8, 8, 2])
    net = ng.StaticNeuralGraph(wiring, ng.Complete())
    with torch.no_grad():
        for norm in (m for m in net.modules() if isinstance(m, ng.nodes.Norm)):
            norm.weight.copy_(torch.arange(1, len(norm.weight) + 1) / 10)
    slimmed, masks = slim(net, 0.25)
    (mask,) = (mask for mask in masks.values() if len(mask) > 2)
    used = {norm.weight.shape[0] for norm in net.modules() if isinstance(norm, ng.nodes.Norm)}
    assert max(used) == len(mask)
    x = torch.randn(2, 3, 6, 6)
    y = slimmed.eval()(x)
    slimmed.selector = ng.selectors.SynapticStrength(tau=1e-9)
    silent = ~mask[wiring.src]
    assert torch.equal(slimmed.selection().real, ~silent) and silent.any()
    torch.testing.assert_close(slimmed(x), y)


@pytest.mark.parametrize("call, error, message", [
    (lambda: slim(vgg(), 1.5), ValueError, "fraction must be a number, expected 0 to 1, got 1.5"),
    (lambda: slim(vgg(), 1.0), InputError, "would leave '0.1' no channel"),
    (lambda: slim(nn.Linear(2, 2), 0.5), InputError, "no batch or instance norms"),
    (lambda: scale_penalty(nn.Linear(2, 2)), InputError, "no batch or instance norms"),
    (lambda: scale_penalty(vgg(), -1), ValueError, "strength must be a number"),
])
def test_bad_slimming(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_functional_forms_and_hooks():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = conv(3, 6), conv(6, 6)
            self.head = nn.Linear(6 * 9, 5)

        def forward(self, x):
            x = F.gelu(F.max_pool2d(self.a(x), 2))
            x = F.interpolate(F.avg_pool2d(self.b(x), 2, padding=1), size=(3, 3), mode="bilinear")
            return self.head(torch.flatten(x, 1)).sigmoid()
    torch.manual_seed(1)
    model, x = Functional().eval(), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        for layer in (model.a, model.b):
            layer[0].weight[:3] = 0
            layer[1].bias.uniform_(0.5, 1)
    small, report = shrink(model, x)
    assert_same(small, model, x, 1e-5)
    # of the constants before the padded convolution one stays, before the padded pooling they are none
    assert (small.a[0].out_channels, small.b[0].out_channels, report.left) == (4, 6, {})
    model.a[0].register_forward_hook(lambda module, arguments, y: y + 1)
    small, report = shrink(model, x)
    assert report.left == {"a.0": "Conv2d: has hooks"} and small.a[0].out_channels == 6
