"""Files of compiled networks: the same bits, old formats too; what is wrong in one is found or harmless."""

import pytest
import torch
from checkout import ROOT
from compiled import MODELS, content_of, perturb, rewrite
from graphs import random_dag
from hypothesis import given, settings, strategies as st
from safetensors.torch import save_file
from torch import nn

import neuralgraph as ng
from neuralgraph.errors import CheckpointError, InputError

pytestmark = pytest.mark.usefixtures("two_threads")


@pytest.mark.parametrize("name, options, size", MODELS[:4])
def test_files_round_trip_bit_for_bit(tmp_path, name, options, size):
    model = perturb(ng.models.create(name, num_classes=3, image_size=size, **options))
    fast = ng.compile(model)
    fast.save(tmp_path / "fast.ng")
    again = ng.inference.load(tmp_path / "fast.ng")
    x = torch.randn(2, 3, size, size)
    assert torch.equal(again(x), fast(x))
    assert [p.name for p in tmp_path.iterdir()] == ["fast.ng"]


def chain_file(path):
    """Of two networks that are joined when they run."""
    function = ng.NodeFunction("norm activation conv", stride=2, receive="norm")
    networks = [ng.StaticNeuralGraph(ng.wirings.chain([2, 4, 2], [function, ng.NodeFunction("conv"),
                                                                  ng.NodeFunction()]), ng.TopK(14))
                for _ in range(2)]
    model = perturb(ng.models.Classifier(nn.Identity(), networks, nn.Flatten(), in_channels=2, image_size=4))
    ng.inference.save(ng.compile(model).network, path)
    return content_of(path)


def small_file(path):
    functions = ng.NodeFunction("norm activation conv", stride=1)
    network = perturb(ng.StaticNeuralGraph(ng.wirings.blocks([2, 4, 4, 2], functions), ng.TopK(14)))
    fast = ng.compile(network)
    ng.inference.save(fast, path)
    return content_of(path)


def test_files_of_format_2_are_read():
    """Written by the version before; the numbers are what that version computed."""
    fast = ng.inference.load(ROOT / "tests" / "files" / "compiled-format-2.ng")
    x = torch.linspace(-2, 2, 2 * 36).sin().view(2, 1, 6, 6)
    torch.testing.assert_close(fast(x), torch.tensor([
        [0.5894902944564819, 0.2751120626926422, 0.3007604479789734],
        [0.5902391076087952, 0.2783084511756897, 0.30437877774238586]]), rtol=1e-6, atol=1e-6)


def test_files_of_format_3_are_read():
    """Likewise; they have no digest."""
    fast = ng.inference.load(ROOT / "tests" / "files" / "compiled-format-3.ng")
    x = torch.linspace(-2, 2, 2 * 2 * 9).sin().view(2, 2, 3, 3)
    torch.testing.assert_close(fast(x).flatten(2).sum(2), torch.tensor([
        [0.6292470693588257, 2.0851094722747803], [2.2061824798583984, 1.8545708656311035]]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dims", [0, 1, 3])
def test_files_of_other_dims(dims, tmp_path):
    wiring = random_dag(5, dims=dims)
    fast = ng.compile(perturb(ng.StaticNeuralGraph(wiring, ng.Complete(), dims=dims)))
    fast.save(tmp_path / "fast.ng")
    x = torch.randn(3, len(wiring.inputs), *[9] * dims)
    assert torch.equal(ng.inference.load(tmp_path / "fast.ng")(x), fast(x))
    with pytest.raises(InputError, match="takes a torch.float32 tensor .batch"):
        fast(x[..., None])


@pytest.mark.parametrize("made", [small_file, chain_file])
@given(data=st.data())
@settings(max_examples=150)
def test_wrong_numbers_in_a_file_are_found_or_harmless(tmp_path_factory, made, data):
    """Whatever integers stand in a file, what is read runs within its memory or is refused."""
    path = tmp_path_factory.mktemp("files") / "fast.ng"
    arrays, header = made(path)
    whole = sorted(name for name, value in arrays.items() if value.dtype == torch.int64)
    name = data.draw(st.sampled_from(whole))
    place = data.draw(st.integers(0, arrays[name].numel() - 1))
    arrays[name][place] = data.draw(st.sampled_from([-2**40, -1, 0, 1, 3, 10**6, 2**40]))
    rewrite(path, arrays, header)
    try:
        fast = ng.inference.load(path)
    except CheckpointError:
        return
    side = 4 if made is small_file else 1
    assert fast(torch.zeros(1, 2, 4, 4)).shape == (1, 2, side, side)


@pytest.mark.parametrize("change, message", [
    (lambda arrays: arrays["network.0.groups.2.outputs"].fill_(0), "an output is there twice"),
    (lambda arrays: arrays["network.1.dst"][:2].zero_(), "an edge"),
])
def test_what_joining_would_make_of_wrong_files(tmp_path, change, message):
    arrays, header = chain_file(tmp_path / "fast.ng")
    change(arrays)
    rewrite(tmp_path / "fast.ng", arrays, header)
    with pytest.raises(CheckpointError, match=message):
        ng.inference.load(tmp_path / "fast.ng")


@pytest.mark.parametrize("change", [
    lambda header: header.update(format=5),
    lambda header: header.pop("network"),
    lambda header: header["network"][0].update(dtype="float64"),
    lambda header: header["network"][0].update(num_inputs=0),
    lambda header: header["network"][0].update(num_outputs=True),
    lambda header: header["network"][0].update(output_scale=2),
    lambda header: header["network"][0]["groups"].reverse(),
    lambda header: header["network"][0]["groups"].pop(0),
    lambda header: header["network"][0]["groups"][1].update(scale=2),
    lambda header: header["network"][0]["groups"][1].update(level=0),
    lambda header: header["network"][0].update(dims=1),
    lambda header: header["network"][0].update(dims=None),
    lambda header: header["network"][0]["groups"][1]["steps"][2].update(stride=2),
    lambda header: header["network"][0]["groups"][1]["steps"][2].update(stride=2**28),
    lambda header: header["network"][0]["groups"][1]["steps"][2].update(zero_pad=1),
    lambda header: header["network"][0]["groups"][1]["steps"][1].update(name="__import__"),
    lambda header: header["network"][0]["groups"][1]["steps"][1].update(name=["relu"]),
    lambda header: header["network"][0]["groups"][1]["steps"][0].update(kind="pointwise"),
    lambda header: header["network"][0]["groups"][1]["steps"].append({}),
    lambda header: header["network"][0]["groups"][1].update(level=2**70),
    lambda header: header["network"][0]["groups"][0].update(kind="sum"),
    lambda header: header.update(network=[]),
])
def test_wrong_headers_are_refused(tmp_path, change):
    arrays, header = small_file(tmp_path / "fast.ng")
    change(header)
    rewrite(tmp_path / "fast.ng", arrays, header)
    with pytest.raises(CheckpointError, match="fast.ng"):
        ng.inference.load(tmp_path / "fast.ng")


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "fast.ng"
    arrays, header = small_file(path)
    content = path.read_bytes()
    for wrong in (b"", content[:50], content[:-10], b"x" * 1000):
        path.write_bytes(wrong)
        with pytest.raises(CheckpointError, match="damaged"):
            ng.inference.load(path)
    with pytest.raises(CheckpointError, match="no file"):
        ng.inference.load(tmp_path / "other.ng")
    place = len(content) - 4
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1:])
    with pytest.raises(CheckpointError, match="damaged: its digest does not fit"):
        ng.inference.load(path)
    save_file(arrays, path)
    with pytest.raises(CheckpointError, match="no compiled model"):
        ng.inference.load(path)
    for missing in arrays:
        rewrite(path, {name: value for name, value in arrays.items() if name != missing}, header)
        with pytest.raises(CheckpointError):
            ng.inference.load(path)
    fast = ng.compile(ng.StaticNeuralGraph(ng.wirings.chain([2, 3]), ng.TopK(4)))
    with pytest.raises(InputError, match="cannot write"):
        ng.inference.save(fast, tmp_path / "nowhere" / "fast.ng")
    with pytest.raises(InputError, match="neuralgraph.compile"):
        ng.inference.save(nn.Linear(1, 1), path)
