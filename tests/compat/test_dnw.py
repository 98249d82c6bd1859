"""The authors' checkpoints: what is accepted, and what is refused with a reason."""

import sys
import tracemalloc
import types
import zipfile

import numpy as np
import pytest
import torch

import neuralgraph as ng
from neuralgraph.compat.torch_files import TYPES, read_state_dict
from neuralgraph.errors import CheckpointError, InputError


def authors_mobilenet(width=0.5, small=False, random=False):
    """A state dict as the authors' code names things, of two small graphs."""
    generator = torch.Generator().manual_seed(0)
    rand = lambda *shape: torch.rand(*shape, generator=generator) - 0.5
    norm = lambda n: {"weight": rand(n), "bias": rand(n), "running_mean": rand(n),
                      "running_var": rand(n) + 1, "num_batches_tracked": torch.tensor(3)}
    state = {"conv1.weight": rand(4, 3, 3, 3)}
    for i, (inputs, outputs, b) in enumerate([(4, 6, 1), (6, 8, 2)]):
        prefix, columns = f"layers.{i}.", inputs + outputs * (b - 1)
        state[prefix + "downsample.0.weight"] = rand(inputs, 1, 3, 3)
        if b > 1:
            state[prefix + "conv.weight"] = rand(outputs * (b - 1), 1, 3, 3)
        state[prefix + "graph.weight"] = rand(outputs * b, columns, 1, 1)
        if random:
            k = ng.models.mobilenet.MobileNetStage(inputs, outputs, b, 1).budget(width)
            mask = torch.zeros(outputs * b * columns)
            mask[torch.randperm(len(mask), generator=generator)[:k]] = 1
            state[prefix + "graph.mask"] = mask.view(outputs * b, columns, 1, 1)
        for j in range(b):
            state |= {f"{prefix}norm.{j}.{k}": v for k, v in norm(inputs if j == 0 else outputs).items()}
    state |= {f"bn.{k}": v for k, v in norm(8).items()}
    if small:
        state["linear.graph.weight"] = rand(5, 8, 1, 1)
    else:
        state |= {"linear.weight": rand(5, 8), "linear.bias": rand(5)}
    return state


X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("small", [False, True])
def test_every_way_to_say_it_gives_the_same_model(tmp_path, small):
    state = authors_mobilenet(small=small)
    expected = ng.load_dnw_checkpoint(state, width=0.5, small=small).eval()(X)
    prefixed = {"module." + name: value for name, value in state.items()}
    torch.save({"model": prefixed, "last_epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "a.pt")
    torch.save(state, tmp_path / "b.pt")
    for source in (prefixed, {"model": state}, tmp_path / "a.pt", str(tmp_path / "b.pt")):
        assert torch.equal(ng.load_dnw_checkpoint(source, width=0.5, small=small).eval()(X), expected)


def test_real_edges_are_the_possible_ones_among_the_top():
    state = authors_mobilenet()
    model = ng.load_dnw_checkpoint(state, width=0.5)
    matrix = state["layers.1.graph.weight"][:, :, 0, 0]
    k = 28  # ceil(0.25 (6 8 + 8 8))
    threshold = matrix.abs().flatten().sort().values[-k]
    kept = matrix.abs() >= threshold
    possible = torch.ones_like(kept)
    possible[:8, 6:] = False  # block 1 receives from the inputs only
    assert model.stages[1].selector.k == (kept & possible).sum() < k


def test_random_graphs_keep_their_mask():
    state = authors_mobilenet(random=True)
    model = ng.load_dnw_checkpoint(state, width=0.5)
    network = model.stages[1]
    mask = state["layers.1.graph.mask"][:, :, 0, 0] != 0
    wiring = network.wiring
    assert torch.equal(network.selection().real, mask[wiring.dst - 6, wiring.src])
    with pytest.raises(CheckpointError, match="but this width or prune rate keeps"):
        ng.load_dnw_checkpoint(state, width=0.7)


def broken(change):
    state = authors_mobilenet()
    change(state)
    return state


@pytest.mark.parametrize("call, error, message", [
    (lambda: ng.load_dnw_checkpoint(authors_mobilenet()), InputError, "needs width"),
    (lambda: ng.load_dnw_checkpoint(authors_mobilenet(), width=1.5), InputError, "at most 1, got 1.5"),
    (lambda: ng.load_dnw_checkpoint(authors_mobilenet(), width="0.5"), InputError, "at most 1, got '0.5'"),
    (lambda: ng.load_dnw_checkpoint(authors_mobilenet(), width=0.5, image_size=16.0), InputError, "whole number of pixels"),
    (lambda: ng.load_dnw_checkpoint(authors_discrete(), setting="discrete", prune_rate="0.5"), InputError, "got '0.5'"),
    (lambda: ng.load_dnw_checkpoint(authors_mobilenet(), width=0.5, small=True), CheckpointError, "give small=False"),
    (lambda: ng.load_dnw_checkpoint(authors_mobilenet(small=True), width=0.5), CheckpointError, "give small=True"),
    (lambda: ng.load_dnw_checkpoint(authors_mobilenet(), setting="static"), InputError, "'discrete' or 'continuous'"),
    (lambda: ng.load_dnw_checkpoint(authors_mobilenet(), setting="discrete"), InputError, "prune_rate"),
    (lambda: ng.load_dnw_checkpoint(authors_mobilenet(), setting="discrete", prune_rate=0.9), CheckpointError, "no entry 'graph.weight'"),
    (lambda: ng.load_dnw_checkpoint({}, width=0.5), CheckpointError, "no state dict"),
    (lambda: ng.load_dnw_checkpoint({"epoch": 3}, width=0.5), CheckpointError, "no state dict"),
    (lambda: ng.load_dnw_checkpoint({"layer1.weight": torch.zeros(3)}, width=0.5), CheckpointError, "no graphs"),
    (lambda: ng.load_dnw_checkpoint(broken(lambda s: s.pop("bn.bias")), width=0.5), CheckpointError, "no entry 'bn.bias'"),
    (lambda: ng.load_dnw_checkpoint(broken(lambda s: s.update(extra=torch.zeros(1))), width=0.5), CheckpointError, "entries that this model does not: extra"),
    (lambda: ng.load_dnw_checkpoint(broken(lambda s: s.update({"layers.1.graph.weight": torch.zeros(16, 13, 1, 1)})), width=0.5), CheckpointError, "does not fit 6 inputs"),
    (lambda: ng.load_dnw_checkpoint(broken(lambda s: s.update({"bn.bias": torch.zeros(9)})), width=0.5), CheckpointError, "does not fit"),
])
def test_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def authors_discrete(nodes=12, inputs=4, outputs=5):
    """A state dict of the authors' discrete-time net, with few nodes."""
    generator = torch.Generator().manual_seed(0)
    rand = lambda *shape: torch.rand(*shape, generator=generator) - 0.5
    norm = lambda n: {"weight": rand(n), "bias": rand(n), "running_mean": rand(n),
                      "running_var": rand(n) + 1, "num_batches_tracked": torch.tensor(3)}
    half = inputs // 2
    state = {"graph.weight": rand(nodes, nodes, 1, 1), "conv.weight": rand(nodes, 1, 3, 3),
             "norm.weight": rand(nodes), "norm.bias": rand(nodes), "fc.weight": rand(10, outputs),
             "fc.bias": rand(10), "downsample.0.weight": rand(half, 3, 3, 3),
             "downsample.0.bias": rand(half), "downsample.3.weight": rand(half, 1, 3, 3),
             "downsample.3.bias": rand(half), "downsample.4.weight": rand(inputs, half, 1, 1),
             "downsample.4.bias": rand(inputs)}
    for layer, n in ((1, half), (5, inputs)):
        state |= {f"downsample.{layer}.{k}": v for k, v in norm(n).items()}
    return state


DAMAGE = {
    "0-d": lambda t: torch.tensor(1.0), "1-d": lambda t: torch.ones(3), "empty": lambda t: torch.ones(0),
    "empty 4-d": lambda t: torch.ones(0, 0, 0, 0), "NaN": lambda t: t * float("nan"),
    "integers": lambda t: t.long() * 0, "complex": lambda t: t.to(torch.complex64),
    "another type": lambda t: t.double(), "sparse": lambda t: t.to_sparse() if t.dim() else t,
    "meta": lambda t: t.to("meta"), "longer": lambda t: torch.cat([t, t]),
    "terabytes": lambda t: torch.zeros(1).expand(10**6, 10**6, 1, 1),
    "turned": lambda t: t.transpose(0, -1),
}


@pytest.mark.parametrize("make, options", [
    (authors_mobilenet, {"width": 0.5}), (lambda: authors_mobilenet(small=True), {"width": 0.5, "small": True}),
    (lambda: authors_mobilenet(random=True), {"width": 0.5}),
    (authors_discrete, {"setting": "discrete", "prune_rate": 0.5, "steps": 2})])
def test_every_damaged_entry_is_named(make, options):
    """Any entry replaced by any of these is refused with its name, or was the same all along."""
    assert ng.load_dnw_checkpoint(make(), **options)
    for name, good in make().items():
        if name.endswith("num_batches_tracked"):
            continue
        for kind, damage in DAMAGE.items():
            bad = damage(good.float())
            if bad.shape == good.shape and bad.layout == good.layout and bad.dtype == good.dtype \
                    and bad.device == good.device and bad.isfinite().all():
                continue
            try:
                ng.load_dnw_checkpoint({**make(), name: bad}, **options)
            except CheckpointError:
                continue
            # more rows of this matrix are more classes, no damage
            assert (name, kind) == ("linear.graph.weight", "longer"), (name, kind)


def test_names_that_are_none():
    with pytest.raises(CheckpointError, match="no state dict"):
        ng.load_dnw_checkpoint({3: torch.zeros(2)}, width=0.5)


class Meter:
    """As the authors' training files hold them: an object with values."""

    def __init__(self):
        self.values, self.best = [torch.ones(3), 2.0], {"top1": 3}


class Payload:
    def __reduce__(self):
        return print, ("code was run",)


def training_file(path, legacy):
    """A training dictionary with objects in it, one of a module that its reader does not have."""
    module = sys.modules["of_the_authors"] = types.ModuleType("of_the_authors")
    module.History = type("History", (dict,), {"__module__": "of_the_authors"})
    torch.save({"model": {"module." + name: value for name, value in authors_mobilenet().items()},
                "last_epoch": 3, "meters": {"train": Meter(), "payload": Payload(), "all": module.History(a=[1])},
                "optimizer": {"lr": 0.1, "momentum": [torch.zeros(5), torch.ones(2, dtype=torch.bool)]}},
               path, _use_new_zipfile_serialization=not legacy)
    del sys.modules["of_the_authors"]


@pytest.mark.parametrize("legacy", [False, True])
def test_training_files_with_objects(tmp_path, legacy, capsys, monkeypatch):
    """``init.pt`` and ``epoch_N.pt``: the tensors are taken, everything else stays inert."""
    training_file(tmp_path / "epoch_3.pt", legacy)
    assert "code was run" not in capsys.readouterr().out
    monkeypatch.setattr(Meter, "__setstate__", lambda self, state: print("state was set"), raising=False)
    expected = ng.load_dnw_checkpoint(authors_mobilenet(), width=0.5).eval()(X)
    assert torch.equal(ng.load_dnw_checkpoint(tmp_path / "epoch_3.pt", width=0.5).eval()(X), expected)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_are_those_of_torch(tmp_path, legacy):
    """Views, shared storages, parameters, every type: as PyTorch itself reads them."""
    base = torch.arange(24.0)
    state = {"a": base.view(4, 6)[1:, ::2], "b": base.view(2, 3, 4).permute(2, 0, 1), "c": base,
             "d": torch.nn.Parameter(torch.rand(3)), "e": torch.tensor(3), "f": torch.zeros(0, 4),
             "g": torch.tensor([True, False]), "h": torch.ones(2, dtype=torch.complex64),
             **{str(dtype): torch.arange(3).to(dtype) for dtype in TYPES.values()}}
    path = tmp_path / "state.pt"
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    theirs, ours = torch.load(path, weights_only=True), read_state_dict(path, "model")
    assert list(ours) == list(state)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]) and tensor.stride() == theirs[name].stride(), name
        assert tensor.dtype == theirs[name].dtype
    assert ours["a"].data_ptr() - ours["c"].data_ptr() == 6 * 4


def stored(path, content):
    """A file of ``torch.save`` with this pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/data/0", bytes(40))


def pickled(size, shape, stride, offset=0):
    """The opcodes of {"a": a tensor of a storage of so many float32}."""
    def tuple_of(numbers):
        return b"(" + b"".join(b"\x8a\x08" + number.to_bytes(8, "little", signed=True) for number in numbers) + b"t"
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu" \
        + tuple_of([size])[1:-1] + b"tQ"
    return b"\x80\x02}X\x01\0\0\0actorch._utils\n_rebuild_tensor_v2\n(" + storage + tuple_of([offset])[1:-1] \
        + tuple_of(shape) + tuple_of(stride) + b"\x89}tRs."


@pytest.mark.parametrize("content, message", [
    (pickled(10, [2, 5], [5, 1]), None),
    (pickled(10**11, [10**11], [1]), "claims 400,000,000,000 bytes and has 40"),
    (pickled(10, [3, 5], [5, 1]), "claims more than the 10 numbers"), (pickled(10, [2], [9], 1), "claims more"),
    (pickled(10, [2, 5], [-5, 1]), "no shape"), (pickled(10, [2, 5], [5]), "no shape"),
    (pickled(10, [10], [1], -1), "no shape"), (pickled(-10, [10], [1]), "no name or size"),
    (pickled(10, [2**61, 2**61], [0, 0]), "claims more than the 10 numbers"),
    (b"\x80\x02r\xff\xff\xff\x7f.", "damaged"),  # the memo's last place
    (b"\x80\x05\x96" + (10**11).to_bytes(8, "little") + b".", "damaged"),  # zeros
    (b"\x80\x04\x8e" + (10**11).to_bytes(8, "little") + b".", "damaged"),  # bytes
    (b"\x80\x02cos\nsystem\nX\x09\0\0\0echo code\x85R.", "not a state dict"),
    (b"\x80\x02}X\x01\0\0\0aK\x01s.", "not a state dict"), (b".", "damaged"), (b"", "damaged"),
])
def test_claims_of_pickles(tmp_path, content, message):
    stored(tmp_path / "a.pt", content)
    tracemalloc.start()
    try:
        if message is None:
            assert list(read_state_dict(tmp_path / "a.pt", "model")) == ["a"]
            return
        with pytest.raises(CheckpointError, match=message):
            read_state_dict(tmp_path / "a.pt", "model")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_hostile_and_damaged_files(tmp_path, capsys):
    good = tmp_path / "good.pt"
    torch.save(authors_mobilenet(), good)
    content = good.read_bytes()
    (tmp_path / "half.pt").write_bytes(content[:len(content) // 2])
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pt")
    torch.save({"model": {"a": torch.ones(2), "b": torch.ones(2).to_sparse()}}, tmp_path / "sparse.pt")
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "script.pt")
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 50_000_000)
    for name, message in [("half", "damaged"), ("empty", "damaged"), ("text", "damaged"), ("list", "not a state dict"),
                          ("absent", "no file"), ("whole", "not a state dict"), ("script", "not a state dict"),
                          ("sparse", "its entry 'b' is no dense tensor"), ("bomb", "would unpack to 50,000,000 bytes")]:
        with pytest.raises(CheckpointError, match=message) as caught:
            ng.load_dnw_checkpoint(tmp_path / f"{name}.pt", width=0.5)
        assert str(caught.value).isprintable() and "weights_only" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_numbers_of_numpy():
    expected = ng.load_dnw_checkpoint(authors_mobilenet(), width=0.5, image_size=16)
    model = ng.load_dnw_checkpoint(authors_mobilenet(), width=np.float64(0.5), image_size=np.int64(16))
    assert torch.equal(model.eval()(X), expected.eval()(X))
    ng.load_dnw_checkpoint(authors_discrete(), setting="discrete", prune_rate=np.float32(0.5), steps=np.int32(2))


def test_one_name_twice():
    with pytest.raises(CheckpointError, match="with and without the prefix"):
        ng.load_dnw_checkpoint({"a": torch.ones(1), "module.a": torch.ones(1)}, width=0.5)
