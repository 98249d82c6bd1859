"""Files of compiled ordinary models: the same bits, nothing but known operations; what is wrong is found or harmless."""

import copy
import json
import os
import pickle
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from checkout import ROOT
from compiled import content_of, rewrite
from hypothesis import given, settings, strategies as st
from small_nets import NETS, pruned
from torch import nn
from torch.utils import _pytree as pytree

import neuralgraph as ng
from neuralgraph.errors import CheckpointError, InputError
from neuralgraph.inference import operations
from neuralgraph.kernels.launch import Crowd
from neuralgraph.plan.checking_layers import checked_layers

pytestmark = pytest.mark.usefixtures("two_threads")


def thinned(model, density=0.1):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            if name.endswith("running_var"):
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
            elif value.dim() == 1:
                value.copy_(torch.randn(value.shape, generator=generator))
            elif value.dim() > 1:
                value.mul_(3 * (torch.rand(value.shape, generator=generator) < density))
    return model.eval()


class Convolutions(nn.Module):
    """Depthwise, grouped, dilated, strided, of one dimension, and one that stays with torch, with borders of every kind."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(16, 16, 5, 1, 2, groups=16), nn.LeakyReLU(0.1), nn.MaxPool2d(3, 2, 1))
        self.grouped, self.dilated = nn.Conv2d(16, 24, 3, 1, 1, groups=4), nn.Conv2d(24, 16, (4, 3), padding="same", dilation=2)
        self.mean, self.line = nn.AvgPool2d(2, count_include_pad=False), nn.Conv1d(16, 8, 3, padding=2)
        self.dense = nn.Conv2d(16, 16, 4, padding="same", padding_mode="reflect")

    def forward(self, x):
        y = self.dilated(F.hardswish(self.grouped(self.depthwise(self.first(x)))))
        y = torch.cat([y, self.dense(y)], 1)[:, ::2]
        first, second = self.mean(y).flatten(2).chunk(2, 2)
        return {"maps": y, "lines": [self.line(first).softmax(-1), (second.amax(2), None, 3)]}


class Block(nn.Module):
    """A block of a transformer, with positions and a mask that it makes."""

    def __init__(self, width=64, heads=4):
        super().__init__()
        self.words = nn.Embedding(11, width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, words):
        x = self.words(words) + torch.arange(words.shape[1])[:, None].sin()
        y = self.norms[0](x)
        mask = torch.full((x.shape[1], x.shape[1]), -torch.inf).triu(1)
        x = x + self.attention(y, y, y, need_weights=False, attn_mask=mask)[0]
        x = x + self.narrow(F.gelu(self.wide(self.norms[1](x))))
        return F.linear(x, self.words.weight).log_softmax(-1)  # the weights of the words once more


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.gru = nn.LSTM(6, 8, 2, batch_first=True, bidirectional=True), nn.GRU(16, 5, batch_first=True)
        self.last = nn.Linear(5, 40)

    def forward(self, x):
        return self.last(self.gru(self.lstm(x)[0])[0]).topk(3)[0]


MODELS = {**{name: (lambda name=name: pruned(name, 1, dtype=torch.float32), lambda: torch.randn(5, 3, 12, 12)) for name in NETS},
          "convolutions": (lambda: thinned(Convolutions()), lambda: torch.randn(5, 3, 21, 18)),
          "transformer": (lambda: thinned(Block()), lambda: torch.randint(11, (5, 7))),
          "recurrent": (lambda: thinned(Recurrent(), 0.5), lambda: torch.randn(5, 4, 6))}


def compiled(name):
    build, draw = MODELS[name]
    torch.manual_seed(0)
    model, x = build(), draw()
    return model, ng.compile(model, x), x


def same_bits(first, second):
    (a, tree), (b, other) = pytree.tree_flatten(first), pytree.tree_flatten(second)
    assert tree == other and len(a) == len(b)
    for x, y in zip(a, b):
        assert torch.equal(x, y) and x.dtype == y.dtype if isinstance(x, torch.Tensor) else x is y or x == y


@pytest.mark.parametrize("name", MODELS)
def test_round_trip_to_the_bit(tmp_path, name, monkeypatch):
    monkeypatch.setattr(Crowd, "has_room", lambda crowd: True)  # which is measured, for each of the two
    model, fast, x = compiled(name)
    fast.save(tmp_path / "fast.ng")
    again = ng.inference.load(tmp_path / "fast.ng")
    assert isinstance(again, ng.inference.CompiledLayers) and str(again) == str(fast) and not list(again.parameters())
    with torch.no_grad():
        expected = model(x)
    for a, b in zip(pytree.tree_leaves(expected), pytree.tree_leaves(fast(x))):
        if isinstance(a, torch.Tensor):
            torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4 * float(a.abs().max()))
    for batch in (0, 1, 3, 5):
        for threads in (1, 2):
            torch.set_num_threads(threads)
            same_bits(again(x[:batch]), fast(x[:batch]))
    ng.inference.save(again, tmp_path / "once more.ng")
    assert (tmp_path / "once more.ng").read_bytes() == (tmp_path / "fast.ng").read_bytes()
    for other in (copy.deepcopy(again), pickle.loads(pickle.dumps(again)), copy.copy(again)):
        same_bits(other(x), fast(x))


ELSEWHERE = """
import sys
for name in ("dgl", "networkx", "torchdiffeq", "small_nets"):
    sys.modules[name] = None
import torch
import neuralgraph as ng
torch.set_num_threads(1)
for name in sys.argv[1:]:
    fast = ng.inference.load(f"{name}.ng")
    x, expected = torch.load(f"{name}.pt")
    got = torch.utils._pytree.tree_leaves(fast(x))
    assert len(got) == len(expected)
    assert all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(got, expected)), name
assert "torch._dynamo" not in sys.modules  # which takes a second
"""


def test_the_same_bits_in_a_process_without_the_model(tmp_path):
    """Nor has it what builds, converts or integrates networks."""
    torch.set_num_threads(1)  # products of torch's differ in their last bits between one thread and two
    for name in MODELS:
        _, fast, x = compiled(name)
        fast.save(tmp_path / f"{name}.ng")
        torch.save((x, pytree.tree_leaves(fast(x))), tmp_path / f"{name}.pt")
    graph, x = ng.compile(ng.StaticNeuralGraph(ng.wirings.blocks([2, 8, 3]), ng.TopK(20))), torch.randn(2, 2, 5, 5)
    graph.save(tmp_path / "graph.ng")
    torch.save((x, [graph(x)]), tmp_path / "graph.pt")
    done = subprocess.run([sys.executable, "-c", ELSEWHERE, *MODELS, "graph"], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-2000:]


def test_files_are_small(tmp_path):
    """Weights that are not real take a bit, equal arrays are kept once."""
    torch.manual_seed(0)
    model = thinned(nn.Sequential(nn.Linear(1000, 1000), nn.ReLU(), nn.Linear(1000, 1000)), 0.05)
    model[2].weight = model[0].weight
    fast = ng.compile(model, torch.randn(1, 1000))
    fast(torch.randn(2, 1000))
    fast.save(tmp_path / "fast.ng")
    assert (tmp_path / "fast.ng").stat().st_size < 4e6 * (0.05 + 1 / 32) * 1.1


def test_sizes_that_were_seen_and_others(tmp_path):
    model, fast, x = compiled("resnet")
    wide = torch.randn(2, 3, 16, 13)
    fast(wide)
    fast.save(tmp_path / "fast.ng")
    again = ng.inference.load(tmp_path / "fast.ng")
    same_bits(again(wide), fast(wide))
    with pytest.raises(InputError, match=r"compiled ResNet was read from a file, which holds it for inputs of \(any, 3, 12, 12\) "
                                         r"or \(any, 3, 16, 13\), got \(2, 3, 9, 9\): compile the model again"):
        again(torch.randn(2, 3, 9, 9))
    with pytest.raises(InputError, match="with 4 dimensions"):
        again(x[0])
    with pytest.raises(InputError, match="cannot be trained"):
        again.train()


class Sized(nn.Module):
    """Another model for other numbers of samples."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x) if len(x) > 3 else -self.layer(x)


def test_numbers_of_samples_that_were_seen_and_others(tmp_path):
    model, x = thinned(Sized(), 1.0), torch.randn(6, 4)
    fast = ng.compile(model, x)
    fast(x[:2])
    fast.save(tmp_path / "fast.ng")
    again = ng.inference.load(tmp_path / "fast.ng")
    for batch in (2, 6):
        same_bits(again(x[:batch]), fast(x[:batch]))
    with pytest.raises(InputError, match=r"for inputs of \(6, 4\) or \(2, 4\), got \(5, 4\)"):
        again(x[:5])


class Calls(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.layer, self.call = nn.Linear(4, 4), call

    def forward(self, x):
        return self.call(self.layer(x))


class Pair(tuple):
    pass


pytree.register_pytree_node(Pair, lambda pair: (list(pair), None), lambda parts, _: Pair(parts))


LIBRARY = torch.library.Library("neuralgraph_tests", "DEF")
LIBRARY.define("twice(Tensor x) -> Tensor")
LIBRARY.impl("twice", lambda x: x * 2, "CPU")
LIBRARY.impl("twice", torch.empty_like, "Meta")


@pytest.mark.parametrize("call, message", [
    (lambda x: torch.ops.neuralgraph_tests.twice(x), r"it calls neuralgraph_tests.twice.default \(at 'twice'\), which no file can hold"),
    (torch.linalg.pinv, "it calls aten.linalg_pinv"),
    (lambda x: Pair([x, x]), "it returns a Pair, which no file can hold: let it return tensors"),
    (lambda x: x * 2j, "which no file can hold"),
])
def test_what_a_file_cannot_hold_is_refused_by_name(tmp_path, call, message):
    model, x = thinned(Calls(call), 1.0), torch.randn(3, 4)
    fast = ng.compile(model, x)
    with pytest.raises(InputError, match=f"cannot save this Calls: .*{message}"):
        fast.save(tmp_path / "fast.ng")
    assert not list(tmp_path.iterdir())


def test_operations_in_the_list_are_there_and_do_nothing_but_compute():
    for name in operations.ATEN:
        packet = getattr(torch.ops.aten, name, None)
        assert packet is not None or name in ("rms_norm",), name  # which came with torch 2.4
    for wrong in ("from_file.default", "relu_.default", "add_.Tensor", "add.out", "add.Nothing", "rand.default", "set_.source_Tensor",
                  "as_strided.default", "empty.memory_format", "__class__.mro", "add.__class__", "add", "", "system", None, ["add"]):
        with pytest.raises(InputError):
            operations.named(wrong)


# ---------------------------------------------------------------------------------- what is wrong in a file


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The arrays and the header of a file with a step of every kind."""
    path = tmp_path_factory.mktemp("files") / "fast.ng"
    ng.inference.save(compiled("convolutions")[1], path)
    return content_of(path)


def step(header, kind, number=0):
    return [step for step in header["layers"]["plans"][0]["steps"] if step.get("kind") == kind][number]


@pytest.mark.parametrize("change, message", [
    (lambda header: header.update(format=5), "a newer one wrote it"),
    (lambda header: header["layers"].pop("plans"), "damaged"),
    (lambda header: header["layers"].update(plans=[]), "no name, plans"),
    (lambda header: header["layers"].update(dtype={"dtype": "float16"}), "numbers are torch.float16"),
    (lambda header: header["layers"].update(dtype={"dtype": "float64"}), "has no weights"),
    (lambda header: header["layers"].update(dtypes=[]), "arguments differ"),
    (lambda header: header["layers"].update(dtypes=["float32"]), "types"),
    (lambda header: header["layers"]["plans"][0].update(batch=[0, None]), "samples"),
    (lambda header: header["layers"]["plans"][0].update(batch=[3, 2]), "samples"),
    (lambda header: header["layers"]["plans"][0].update(tree=[0]), "damaged"),
    (lambda header: header["layers"]["plans"][0].update(tree={"list": [0, 0, 1]}), "not arranged"),
    (lambda header: header["layers"]["plans"][0]["outputs"].pop(), "not arranged"),
    (lambda header: header["layers"]["plans"][0]["steps"][0].update(shape=[{"size": "batch"}, 3, 21, {"size": "batch"}]), "argument 0"),
    (lambda header: header["layers"]["plans"][0]["steps"][0].update(shape=[{"size": "batch"}, 3, 21, 12]), "cannot make maps"),
    (lambda header: header["layers"]["plans"][0]["steps"][0].update(shape=["__import__('os')", 3, 21, 18]), "a shape is"),
    (lambda header: header["layers"]["plans"][0]["steps"][0].update(shape=[{"size": ["**", 9, 9]}, 3, 21, 18]), "damaged"),
    (lambda header: step(header, "convolution").update(source=20), "reads the step 20"),
    (lambda header: step(header, "convolution").update(source=-1), "reads the step -1"),
    (lambda header: step(header, "convolution").update(added=0), "does not fit"),
    (lambda header: step(header, "convolution").update(stride=[1, 1]), "cannot make maps"),
    (lambda header: step(header, "convolution").update(padding=[2**40, 1]), "has the settings"),
    (lambda header: step(header, "convolution").update(dilation=[0, 1]), "has the settings"),
    (lambda header: step(header, "convolution", 1).update(groups=8), "shapes of"),
    (lambda header: step(header, "convolution").update(is_linear=True), "shapes of"),
    (lambda header: step(header, "convolution").update(slope="0"), "the activation"),
    (lambda header: step(header, "convolution").update(weights=[16, 3, 3, 4]), "which weights are real"),
    (lambda header: step(header, "convolution").update(weights=[2**40, 2**40, 3, 4]), "which weights are real"),
    (lambda header: step(header, "convolution").update(weights=[16, 27, 1, 1]), "shapes of"),
    (lambda header: step(header, "convolution").update(weight=step(header, "convolution")["bias"]), "weights differ in number"),
    (lambda header: step(header, "convolution").update(bias="7000"), "damaged"),
    (lambda header: step(header, "convolution").update(shape=[{"size": "batch"}, 16, 12, 9]), "cannot make maps"),
    (lambda header: step(header, "convolution").update(kind="system"), "damaged"),
    (lambda header: step(header, "pool").update(stride=[1, 1]), "cannot make maps"),
    (lambda header: step(header, "pool").update(padding=[2, 2]), "border"),
    (lambda header: step(header, "pool").update(divisor=-1), "of no kind"),
    (lambda header: step(header, "call").update(function="from_file.default"), "none that a compiled model may call"),
    (lambda header: step(header, "call").update(function="aten.system"), "none that a compiled model may call"),
    (lambda header: step(header, "call").update(function="relu.nothing"), r"has no operation 'relu.nothing'"),
    (lambda header: step(header, "call").update(function="dropout.default", arguments=[{"step": 0}, 0.5, True]), "draws random numbers"),
    (lambda header: step(header, "call").update(arguments=[{"step": 0, "tensor": "0"}]), "damaged"),
    (lambda header: step(header, "call").update(arguments=[{"device": "cuda"}]), "damaged"),
    (lambda header: step(header, "call").update(arguments={}), "damaged"),
])
def test_wrong_headers_are_refused(tmp_path, small, change, message):
    arrays, header = small
    header = copy.deepcopy(header)
    change(header)
    rewrite(tmp_path / "fast.ng", arrays, header)
    with pytest.raises(CheckpointError, match=f"fast.ng.*{message}"):
        ng.inference.load(tmp_path / "fast.ng")


def numbers(value, place=()):
    """Where whole numbers stand in JSON."""
    if isinstance(value, (dict, list)):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers(part, (*place, key))
    elif type(value) is int:
        yield place


@given(data=st.data())
@settings(max_examples=80)
def test_any_wrong_number_is_found_or_harmless(tmp_path_factory, small, data):
    """Whatever number stands in a file, what is read runs within its memory, or it is refused, then or when it is run."""
    arrays, header = small
    header, arrays = copy.deepcopy(header), dict(arrays)
    *place, last = data.draw(st.sampled_from([place for place in numbers(header["layers"])]))
    part = header["layers"]
    for key in place:
        part = part[key]
    part[last] = data.draw(st.sampled_from([-2**40, -1, 0, 1, 2, 3, 5, 17, 10**6, 2**40]))
    path = tmp_path_factory.mktemp("files") / "fast.ng"
    rewrite(path, arrays, header)
    try:
        fast = ng.inference.load(path)
    except CheckpointError:
        return
    try:
        fast(torch.zeros(3, 3, 21, 18))
    except (InputError, RuntimeError, ValueError, IndexError):  # of torch's own operations
        pass


def test_what_torch_makes_is_compared_before_a_kernel_reads_it(tmp_path, small):
    arrays, header = small
    header = copy.deepcopy(header)
    entry = step(header, "call")  # hardswish, whose result a convolution reads
    assert entry["function"] == "hardswish.default"
    entry.update(function="select.int", arguments=[entry["arguments"][0], 3, 0])
    rewrite(tmp_path / "fast.ng", arrays, header)
    with pytest.raises(InputError, match=r"expected torch.float32 \(2, 24, .* of 'hardswish', got torch.float32 \(2, 24"):
        ng.inference.load(tmp_path / "fast.ng")(torch.zeros(2, 3, 21, 18))


def test_damage_is_found(tmp_path):
    path = tmp_path / "fast.ng"
    compiled("resnet")[1].save(path)
    content = path.read_bytes()
    for place in (len(content) - 4, len(content) // 2, content.index(b"convolution") + 1, content.index(b"batch")):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1:])
        with pytest.raises(CheckpointError, match="damaged"):
            ng.inference.load(path)
    for wrong in (b"", content[:100], content[:-10], content + b"0", pickle.dumps(nn.Linear(2, 2))):
        path.write_bytes(wrong)
        with pytest.raises(CheckpointError, match="damaged"):
            ng.inference.load(path)
    arrays, header = content_of_bytes(path, content)
    for missing in arrays:
        rewrite(path, {name: value for name, value in arrays.items() if name != missing}, header)
        with pytest.raises(CheckpointError):
            ng.inference.load(path)


def content_of_bytes(path, content):
    path.write_bytes(content)
    return content_of(path)


def test_what_is_read_is_a_plan():
    for name in MODELS:
        for plans in compiled(name)[1]._plans.values():
            for plan in plans:
                checked_layers(plan)


def test_the_version_of_torch_that_lacks_an_operation_is_named(tmp_path, small):
    arrays, header = small
    header = copy.deepcopy(header)
    header["layers"]["torch"] = "9.1"
    step(header, "call")["function"] = "softmax.new"
    rewrite(tmp_path / "fast.ng", arrays, header)
    with pytest.raises(CheckpointError, match=r"has no operation 'softmax.new' \(it was written beside torch 9.1\)"):
        ng.inference.load(tmp_path / "fast.ng")


def test_the_header_says_what_is_called(small):
    """For who looks into a file."""
    text = json.dumps(small[1])
    for name in ("hardswish.default", "softmax.int", "pad.default", "cat.default"):
        assert name in text
