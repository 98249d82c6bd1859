"""Compiled networks give the outputs of what they were compiled from, and are refused where they cannot."""

import copy
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from checkout import ROOT
from compiled import MODELS, perturb, same
from graphs import random_dag
from hypothesis import given, settings, strategies as st
from torch import nn

import neuralgraph as ng
from neuralgraph.errors import InputError
from neuralgraph.inference.engine import KEPT
from neuralgraph.kernels.instructions import FOUR_SUMS
from neuralgraph.plan import lower

sizes = st.sampled_from([(1, 1), (2, 2), (5, 5), (6, 4), (8, 8), (2, 3), (17, 9), (1, 8), (3, 1)])
batches = st.sampled_from([1, 2, 3, 5, 8, 9, 14, 16, 19])  # 1, 2, 4 and 8 samples in a row, and some left over

pytestmark = pytest.mark.usefixtures("two_threads", "poisoned")


@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.1, 0.4, 1.0]), batch=batches,
       size=sizes)
@settings(max_examples=60)
def test_random_graphs(seed, share, batch, size):
    wiring = random_dag(seed, instance_up_to=0 if math.prod(size) < 5 else 2)
    network = perturb(ng.StaticNeuralGraph(wiring, ng.TopK(round(share * wiring.num_edges)), "dense", seed,
                                           dtype=torch.float64), seed)
    same(network, ng.compile(network), (batch, len(wiring.inputs), *size), seed)


@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.1, 0.3, 1.0]), steps=st.integers(1, 5),
       tied=st.booleans(), held=st.booleans(), batch=batches, size=sizes)
@settings(max_examples=60)
def test_discrete_time(seed, share, steps, tied, held, batch, size):
    norm = "batch" if size == (1, 1) else "instance"
    wiring = ng.wirings.complete(9, inputs=3, outputs=2,
                                 function=ng.NodeFunction("activation conv", "norm", norm=norm))
    if held:
        wiring = ng.wirings.from_edges([(0, 1), (1, 2), (2, 1), (0, 3), (3, 3), (2, 3), (1, 4), (3, 4)],
                                       inputs=[0], outputs=[3, 4])
    network = perturb(ng.DiscreteTimeNeuralGraph(
        wiring, ng.TopK(round(share * wiring.num_edges)), "dense", seed, steps=steps, tied=tied,
        dtype=torch.float64), seed)
    same(network, ng.compile(network), (batch, len(wiring.inputs), *size), seed)


SPACES = {0: [()], 1: [(7,), (16,), (33,)], 3: [(5, 4, 6), (3, 3, 3), (2, 9, 4)]}


@pytest.mark.parametrize("dims", SPACES)
@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.2, 0.6, 1.0]), batch=batches, data=st.data())
@settings(max_examples=30)
def test_vectors_signals_and_volumes(dims, seed, share, batch, data):
    wiring = random_dag(seed, dims=dims)
    network = perturb(ng.StaticNeuralGraph(wiring, ng.TopK(round(share * wiring.num_edges)), "dense", seed,
                                           dtype=torch.float64, dims=dims), seed)
    same(network, ng.compile(network), (batch, len(wiring.inputs), *data.draw(st.sampled_from(SPACES[dims]))), seed)


@pytest.mark.parametrize("dims, size", [(1, (9,)), (1, (8,)), (2, (7, 6)), (3, (5, 4, 6))])
@pytest.mark.parametrize("kernel_size", [3, 5, 31])
def test_strides_that_are_padded_back(dims, size, kernel_size):
    function = ng.NodeFunction("activation conv", "norm", norm="instance", activation="tanh", kernel_size=kernel_size,
                               stride=2, zero_pad=True)
    wiring = ng.wirings.complete(8, inputs=2, outputs=3, function=function)
    network = perturb(ng.DiscreteTimeNeuralGraph(wiring, ng.TopK(30), "dense", steps=3, dtype=torch.float64,
                                                 dims=dims))
    for batch in (1, 4):
        same(network, ng.compile(network), (batch, 2, *size))


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_convolutions_of_every_width(kernel_size, stride):
    function = ng.NodeFunction("norm activation conv", norm="instance", kernel_size=kernel_size)
    wiring = ng.wirings.blocks([2, 3, 2], function, input_stride=stride)
    network = perturb(ng.StaticNeuralGraph(wiring, ng.TopK(10), "dense", dtype=torch.float64))
    fast = ng.compile(network)
    for height, width in [(4, 4), (5, 5), (4, 9), (7, 17), (4, 32), (5, 33), (1, 47)]:
        for batch in (1, 4, 8, 16):  # with two threads 1, 2, 4 and 8 samples in a row
            same(network, fast, (batch, 2, height, width))


@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.1, 0.5, 1.0]), tied=st.booleans(),
       batch=batches, size=sizes)
@settings(max_examples=30)
def test_chains_of_networks(seed, share, tied, batch, size):
    """Joined to one plan where the tiles are alike; the last reads its first channel at every step."""
    stages = []
    for number in range(2):
        wiring = random_dag(seed + number, num_inputs=len(stages[-1].wiring.outputs) if stages else None,
                            instance_up_to=0 if stages or math.prod(size) < 5 else 2)
        stages.append(ng.StaticNeuralGraph(wiring, ng.TopK(round(share * wiring.num_edges)), "dense", seed,
                                           dtype=torch.float64))
    joints = len(stages[-1].wiring.outputs)
    edges = [(0, joints), (joints - 1, joints), (joints, joints + 1), (joints + 1, joints)]
    wiring = ng.wirings.from_edges(list(dict.fromkeys(edges)), inputs=range(joints), outputs=[joints + 1])
    stages.append(ng.DiscreteTimeNeuralGraph(wiring, ng.TopK(3), "dense", seed, steps=3, tied=tied,
                                             dtype=torch.float64))
    inputs = len(stages[0].wiring.inputs)
    model = perturb(ng.models.Classifier(nn.Identity(), stages, nn.Flatten(), in_channels=inputs,
                                         image_size=8), seed)
    same(model, ng.compile(model), (batch, inputs, *size), seed)


@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.5, 0.9, 1.0]), batch=batches, size=sizes,
       nodes=st.integers(3, 11), discrete=st.booleans())
@settings(max_examples=40)
def test_dense_blocks(seed, share, batch, size, nodes, discrete):
    """Nodes with almost the same parents are summed four at a time."""
    if discrete:
        function = ng.NodeFunction("activation conv", "norm", norm="batch" if size == (1, 1) else "instance")
        wiring, kind, options = ng.wirings.complete(nodes, inputs=1, outputs=2, function=function), \
            ng.DiscreteTimeNeuralGraph, {"steps": 3}
    else:
        wiring, kind, options = ng.wirings.blocks([3, nodes, 6, 2]), ng.StaticNeuralGraph, {}
    network = perturb(kind(wiring, ng.TopK(round(share * wiring.num_edges)), "dense", seed,
                           dtype=torch.float64, **options), seed)
    fast = ng.compile(network)
    same(network, fast, (batch, len(wiring.inputs), *size), seed)
    found = next(iter(fast._layouts.values()))  # of all threads; the second run is on one
    fours = (found.code["kind"] == FOUR_SUMS).sum()
    assert fours or share < 1 or nodes < 4 * torch.get_num_threads()


def test_the_head_and_stem_keep_what_is_read():
    """Filters nobody reads go, norm and ReLU of the head are computed with the outputs."""
    network = ng.StaticNeuralGraph(ng.wirings.from_edges(
        [(1, 4), (3, 4), (1, 5), (0, 6), (2, 6)], inputs=[0, 1, 2, 3], outputs=[4, 5, 6],
        weight=torch.tensor([2.0, -3, 1, 0.1, 0.2])), ng.TopK(3))
    head = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(3, 2))
    for stem in (nn.Conv2d(2, 4, 3), nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4)),
                 nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU()), nn.Conv2d(2, 4, 3, groups=2)):
        model = perturb(ng.models.Classifier(stem, [network], head, in_channels=2, image_size=9))
        fast = ng.compile(model)
        same(model, fast, (3, 2, 9, 7), tolerance=1e-5, dtype=torch.float32)
        layers = list(fast.stem) if isinstance(fast.stem, nn.Sequential) else [fast.stem]
        dense = layers[-1] if isinstance(layers[-1], nn.Conv2d) and layers[-1].groups == 1 else None
        assert dense is None or len(dense.weight) == 2
        assert [type(layer) for layer in fast.head][1:] == [nn.Linear]
        assert model.stem is stem and len(model.head) == 5  # the model itself is left alone


def chained(stem, head, channels=4):
    """A model whose graph leaves inputs 0 and 2 unread."""
    network = ng.StaticNeuralGraph(ng.wirings.from_edges(
        [(1, 4), (3, 4), (1, 5), (0, 6), (2, 6)], inputs=[0, 1, 2, 3], outputs=[4, 5, 6],
        weight=torch.tensor([2.0, -3, 1, 0.1, 0.2])), ng.TopK(3))
    return perturb(ng.models.Classifier(stem, [network], head, in_channels=channels, image_size=9))


ACT = nn.ReLU()
SPARSE = ng.sparsify(nn.Sequential(nn.Conv2d(4, 4, 3)), density=0.4, first_layer_dense=False)[0]
TWICE = nn.Conv2d(4, 4, 3, padding=1)


class Reversed(nn.Sequential):
    def forward(self, x):
        for layer in reversed(self):
            x = layer(x)
        return x


@pytest.mark.parametrize("stem, head", [
    (SPARSE, nn.Flatten()),
    (nn.Sequential(copy.deepcopy(SPARSE), nn.BatchNorm2d(4)), nn.Flatten()),
    (nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3)), nn.Flatten()),
    (nn.Sequential(TWICE, nn.ReLU(), TWICE), nn.Flatten()),
    (nn.Sequential(nn.Conv2d(4, 4, 1), ACT, nn.Conv2d(4, 4, 3), ACT), nn.Sequential(ACT, nn.Flatten(), ACT)),
    (Reversed(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1)), Reversed(nn.Flatten(), nn.ReLU())),
    (nn.Sequential(), nn.Sequential()),
    (nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), nn.BatchNorm2d(3)),
    (nn.Identity(), nn.Sequential(nn.BatchNorm2d(3, affine=False), nn.ReLU())),
    (nn.Identity(), nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.ReLU())),
    (nn.Identity(), nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(2), nn.Linear(1, 5))),
    (nn.Identity(), nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten())),
])
def test_unusual_stems_and_heads(tmp_path, stem, head):
    model = chained(stem, head)
    fast = ng.compile(model)
    same(model, fast, (3, 4, 9, 7), tolerance=1e-5, dtype=torch.float32)
    try:
        fast.save(tmp_path / "fast.ng")
    except InputError as error:
        assert "cannot save a layer" in str(error)
        return
    x = torch.randn(2, 4, 9, 9)
    assert torch.equal(ng.inference.load(tmp_path / "fast.ng")(x), fast(x))


@pytest.mark.parametrize("activation", ["elu", "gelu", "silu", "softplus", "sigmoid", "tanh", "leaky_relu"])
def test_activations(activation):
    for send in ("activation", "norm activation conv", "conv activation"):
        function = ng.NodeFunction(send, norm="batch" if "norm" in send else None, activation=activation,
                                   receive="bias")
        network = perturb(ng.StaticNeuralGraph(ng.wirings.blocks([2, 5, 3], function), ng.TopK(20),
                                               dtype=torch.float64))
        same(network, ng.compile(network), (3, 2, 5, 4))


@pytest.mark.parametrize("name, options, size", MODELS)
def test_models(name, options, size):
    model = perturb(ng.models.create(name, num_classes=7, image_size=size, **options))
    fast = ng.compile(model)
    for batch in (1, 5):
        same(model, fast, (batch, 3, size, size), tolerance=1e-4, dtype=torch.float32)
    if not name.startswith("tiny"):
        same(model, fast, (2, 3, size + 7, size - 5), tolerance=1e-4, dtype=torch.float32)


def test_dead_nodes_go_and_constants_are_folded():
    """0 -> 1 -> 5 is all that varies; 2 is read by nobody, 3 and 4 are constants, 3 reads nothing."""
    edges = [(0, 1), (1, 5), (1, 2), (3, 4), (4, 5), (3, 5), (0, 3)]
    functions = [ng.NodeFunction("norm activation conv")] * 5 + [ng.NodeFunction()]
    wiring = ng.wirings.from_edges(edges, inputs=[0], outputs=[5], functions=functions,
                                   weight=torch.tensor([7.0, 6, 5, 4, 3, 2, 1]))
    network = perturb(ng.StaticNeuralGraph(wiring, ng.TopK(6), dtype=torch.float64), seed=3)
    made = lower(network)
    assert sum(len(group.nodes) for group in made.groups) == 3
    varying = np.concatenate([group.nodes for group in made.groups])
    assert np.isin(made.dst, varying).sum() == 3  # two edges, and one constant for both 3 and 4
    same(network, ng.compile(network), (2, 1, 6, 7))


def test_what_no_graph_reads_of_another_is_left_out():
    model = perturb(ng.models.create("mobilenet-dnw", width=0.03, num_classes=4, image_size=32))
    fast = ng.compile(model)
    alone = [sum(len(g.nodes) for g in lower(network).groups) for network in model.stages]
    together = [sum(len(g.nodes) for g in made.groups) for made in fast.network.plans]
    assert together[-1] == alone[-1] and all(t < a for t, a in zip(together[:-1], alone[:-1]))
    same(model, fast, (3, 3, 32, 32), tolerance=1e-4, dtype=torch.float32)


def test_a_network_without_real_edges_is_constant():
    network = perturb(ng.StaticNeuralGraph(ng.wirings.blocks([2, 3, 2], ng.NodeFunction(
        "norm activation conv", "norm")), ng.TopK(0), dtype=torch.float64))
    same(network, ng.compile(network), (3, 2, 4, 4))


def test_modules_that_contain_networks():
    network = perturb(ng.StaticNeuralGraph(ng.wirings.blocks([4, 8, 3]), ng.TopK(20)))
    module = nn.Sequential(nn.Conv2d(1, 4, 3), network, nn.Flatten()).eval()
    fast = ng.compile(module)
    same(module, fast, (2, 1, 6, 6), tolerance=1e-5, dtype=torch.float32)
    assert isinstance(module[1], ng.StaticNeuralGraph)
    assert not isinstance(fast[1], ng.StaticNeuralGraph)


def test_many_threads_at_once():
    network = perturb(ng.StaticNeuralGraph(ng.wirings.blocks([3, 20, 20, 4]), ng.TopK(200)))
    fast = ng.compile(network)
    images = [torch.randn(1 + i % 3, 3, 8, 8) for i in range(24)]
    with torch.no_grad():
        expected = [network(x) for x in images]
        with ThreadPoolExecutor(4) as pool:
            for actual, wanted in zip(pool.map(lambda x: fast(x.clone()), images), expected):
                torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("limit", [{"OMP_THREAD_LIMIT": "1"}, {"OMP_DYNAMIC": "true"}])
def test_threads_that_are_not_granted_are_not_waited_for(limit):
    code = """
import torch, neuralgraph as ng
torch.set_num_threads(2)
net = ng.StaticNeuralGraph(ng.wirings.blocks([3, 8, 8, 4]), ng.TopK(60)).eval()
x = torch.randn(1, 3, 8, 8)
with torch.no_grad():
    torch.testing.assert_close(ng.compile(net)(x), net(x), rtol=1e-4, atol=1e-5)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120,
                          env={**os.environ, **limit, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-2000:]


def test_what_cannot_be_compiled_says_so():
    wiring = ng.wirings.complete(6, inputs=2, outputs=1)
    for network in (ng.ContinuousTimeNeuralGraph(wiring, ng.TopK(9)),
                    ng.DiscreteTimeNeuralGraph(wiring, ng.TopK(9), steps=None)):
        with pytest.raises(InputError, match="not known before it runs"):
            ng.compile(network)
    with pytest.raises(InputError, match="to compile its sparse layers"):
        ng.compile(nn.Linear(2, 2))
    with pytest.raises(InputError, match="network or a module"):
        ng.compile("runs/tiny")
    fast = ng.compile(ng.StaticNeuralGraph(ng.wirings.chain([2, 3]), ng.TopK(4)))
    assert fast(torch.zeros(0, 2, 4, 4)).shape == (0, 3, 4, 4)
    for wrong in (torch.zeros(1, 3, 4, 4), torch.zeros(2, 4, 4), torch.zeros(1, 2, 4, 4).double(),
                  torch.zeros(1, 2, 0, 4), np.zeros((1, 2, 4, 4), np.float32), None):
        with pytest.raises(InputError, match="takes a torch.float32 tensor"):
            fast(wrong)
    with pytest.raises(InputError, match="no gradients"):
        fast(torch.zeros(1, 2, 4, 4, requires_grad=True))
    model = ng.compile(ng.models.create("tiny-static", k=100))
    with pytest.raises(InputError, match="cannot be trained"):
        model.train()
    for wrong in (torch.zeros(1, 1, 32, 32), torch.zeros(1, 3, 32, 32).double(), np.zeros((1, 3, 32, 32)), None):
        with pytest.raises(InputError, match="expected torch.float32 images"):
            model(wrong)
    for network in (ng.StaticNeuralGraph(ng.wirings.chain([2, 3]), ng.TopK(4)).half(),
                    ng.DiscreteTimeNeuralGraph(wiring, ng.TopK(9), dtype=torch.bfloat16)):
        with pytest.raises(InputError, match="of float32 and float64"):
            ng.compile(network)


def test_torch_compile_passes_a_compiled_network_by():
    network = perturb(ng.StaticNeuralGraph(ng.wirings.chain([2, 3]), ng.TopK(4)))
    x = torch.randn(2, 2, 5, 5)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(ng.compile(network), backend="eager")(x), network(x))


def test_only_the_last_sizes_are_kept():
    fast = ng.compile(ng.StaticNeuralGraph(ng.wirings.chain([2, 3]), ng.TopK(4)))
    for side in range(1, 3 * KEPT):
        fast(torch.zeros(1, 2, side, side))
    assert len(fast._layouts) == KEPT
    assert not copy.deepcopy(fast).training
