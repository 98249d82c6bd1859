"""The history of a wiring: what is read is what was, whatever happens to the file."""

import copy
import json
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

import neuralgraph as ng
from neuralgraph.errors import CheckpointError, InputError, RunError
from neuralgraph.rewiring import History, Observed, Recorder
from neuralgraph.rewiring.records import PREFIX, first_record, step_record


def train(model, path, steps, begin=0, every=100, total=None, optimizer=None, seen=None):
    """Trains a graph of three inputs and keeps what was real after each step."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    rewiring = ng.rewire(model, optimizer, total or steps, history=Recorder(path, every) if path else None)
    seen = [] if seen is None else seen
    for step in range(begin, steps):
        x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (model(x) - x[:, :2]).square().mean().backward()
        optimizer.step()
        chosen = model.selection()
        seen.append((chosen.real.clone(), chosen.weight.detach().clone()))
    rewiring.remove()
    return seen, optimizer


def network(seed=0, selector=None):
    return ng.StaticNeuralGraph(ng.wirings.blocks([3, 9, 9, 2]), selector or ng.TopK(k=40), seed=seed)


def test_every_moment_is_what_it_was(tmp_path):
    net = network()
    start = net.selection()
    start = start.real.clone(), start.weight.detach().clone()
    seen, _ = train(net, tmp_path / "a.history", 20, every=1)
    history = History(tmp_path / "a.history")
    assert history.steps == list(range(21))
    for step, (real, weight) in enumerate([start, *seen]):
        moment = history.at(step)
        assert moment.step == step and torch.equal(moment.real, real)
        torch.testing.assert_close(moment.weight, weight, rtol=2**-11, atol=1e-7)
        assert moment.threshold == pytest.approx(weight[real].abs().min().item(), rel=2**-11)
    masks = [real for real, _ in [start, *seen]]
    assert sum(not torch.equal(a, b) for a, b in zip(masks, masks[1:])) > 5  # there is something to see
    assert history.turnover() == [int((b & ~a).sum()) / 40 for a, b in zip(masks, masks[1:])]
    births = {(edge, step) for edge, step in history.births().tolist()}
    assert births == {(edge, 0) for edge in masks[0].nonzero().flatten().tolist()} | {
        (edge, step + 1) for step, (a, b) in enumerate(zip(masks, masks[1:])) for edge in (b & ~a).nonzero().flatten().tolist()}
    assert {(edge, step) for edge, step in history.deaths().tolist()} == {
        (edge, step + 1) for step, (a, b) in enumerate(zip(masks, masks[1:])) for edge in (a & ~b).nonzero().flatten().tolist()}
    ages = history.ages(12)
    for edge in range(net.wiring.num_edges):
        since = next((step for step in range(12, -1, -1) if not masks[step][edge]), -1) + 1
        assert ages[edge] == (12 - since if masks[12][edge] else -1)
    part, = history.parts
    for name in ("role", "block", "src", "dst"):
        assert torch.equal(getattr(part, name), getattr(net.wiring, name))


def test_steps_between_records(tmp_path):
    train(network(), tmp_path / "a.history", 23, every=10)
    history = History(tmp_path / "a.history")
    assert history.steps == [0, 1, 2, 4, 8, 10, 20, 23]
    assert history.at(15).step == 10 and history.at().step == 23
    with pytest.raises(InputError, match="step must be an integer from 0"):
        history.at(-1)
    with pytest.raises(InputError, match="part must be from 0 to 0"):
        history.at(3, part=1)


def test_recording_changes_no_training(tmp_path):
    one, other = network(), network()
    train(one, tmp_path / "a.history", 12)
    train(other, None, 12)
    assert torch.equal(one.weight, other.weight)


def test_a_killed_training_goes_on_with_the_same_file(tmp_path):
    whole, parts = network(selector=ng.selectors.create("rigl", k=40, every=3)), \
        network(selector=ng.selectors.create("rigl", k=40, every=3))
    train(whole, tmp_path / "whole.history", 20, every=2)
    _, optimizer = train(parts, tmp_path / "parts.history", 11, every=2, total=20)
    states = copy.deepcopy((parts.state_dict(), optimizer.state_dict()))
    train(parts, tmp_path / "parts.history", 17, begin=11, every=2, total=20, optimizer=optimizer)  # lost
    with open(tmp_path / "parts.history", "ab") as file:
        file.write(PREFIX.pack(1000, 0) + b"cut off")
    again = network(seed=1, selector=ng.selectors.create("rigl", k=40, every=3))
    again.load_state_dict(states[0])
    optimizer = torch.optim.SGD(again.parameters(), lr=0.2, momentum=0.9)
    optimizer.load_state_dict(states[1])
    train(again, tmp_path / "parts.history", 20, begin=11, every=2, total=20, optimizer=optimizer)
    assert (tmp_path / "whole.history").read_bytes() == (tmp_path / "parts.history").read_bytes()


masks = st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=6)


@given(masks=masks, scale=st.sampled_from([1.0, 1e-3, 1e-6, 1e6]), recorded=st.lists(st.booleans(), min_size=6, max_size=6))
@settings(max_examples=60)
def test_records_round_trip(tmp_path_factory, masks, scale, recorded):
    path = tmp_path_factory.mktemp("h") / "a.history"
    content, before = first_record([Observed("one", 6), Observed("two", 6)]), None
    generator = np.random.default_rng(0)
    kept = []
    for step, (mask, has_weights) in enumerate(zip(masks, recorded)):
        real = np.flatnonzero(mask)
        weight = (generator.standard_normal(len(real)) * scale).astype(np.float32)
        record, before = step_record(step, [(real, weight if has_weights else None), (real[:1], weight[:1])], before)
        content += record
        kept.append((real, weight if has_weights else np.full(len(real), np.nan)))
    path.write_bytes(content)
    history = History(path)
    for step, (real, weight) in enumerate(kept):
        moment = history.at(step)
        assert moment.real.nonzero().flatten().tolist() == real.tolist()
        np.testing.assert_allclose(moment.weight[moment.real].numpy(), weight, rtol=2**-11)


def test_it_can_be_read_while_it_is_written(tmp_path):
    source, path = tmp_path / "a.history", tmp_path / "b.history"
    train(network(), source, 10, every=2)
    content, steps = source.read_bytes(), History(source).steps
    path.write_bytes(b"")
    for size in range(22, len(content) + 1, 37):
        path.write_bytes(content[:size])
        history = History(path)
        assert history.steps == steps[:len(history.steps)]
    growing = History(path)
    path.write_bytes(content)
    growing.refresh()
    assert growing.steps == steps and growing.refresh() == 0
    assert torch.equal(growing.at().weight, History(source).at().weight)


def test_a_damaged_file_is_told_and_never_believed(tmp_path):
    path = tmp_path / "a.history"
    train(network(), path, 6, every=2)
    content = bytearray(path.read_bytes())
    for place in range(0, len(content), 11):
        damaged = bytearray(content)
        damaged[place] ^= 0x41
        path.write_bytes(damaged)
        try:
            History(path)
        except CheckpointError as error:
            assert str(path) in str(error)
        else:  # a length that is too large looks like a record that is being written
            assert len(History(path).steps) < 6
    with pytest.raises(CheckpointError, match="no history"):
        History(tmp_path / "absent.history")
    path.write_bytes(b"neuralgraph history 2\n" + content[22:])
    with pytest.raises(CheckpointError, match="this version can read"):
        History(path)


@pytest.mark.parametrize("change, message", [
    (lambda header: header["parts"][0].__setitem__(0, 99), "too short"),
    (lambda header: header.__setitem__("step", -1), "a record"),
    (lambda header: header["parts"].pop(), "a record"),
    (lambda header: header["parts"][0].__setitem__(2, 3), "weights of 3 bytes"),
    (lambda header: header.pop("step"), "step")])
def test_a_record_that_makes_no_sense_is_damage(tmp_path, change, message):
    path = tmp_path / "a.history"
    first = first_record([Observed("one", 6)])
    record, _ = step_record(0, [(np.array([1, 4]), np.ones(2, np.float32))], None)
    header, _, arrays = zlib.decompress(record[PREFIX.size:]).partition(b"\n")
    header = json.loads(header)
    change(header)
    payload = zlib.compress(json.dumps(header).encode() + b"\n" + arrays)
    path.write_bytes(first + PREFIX.pack(len(payload), zlib.crc32(payload)) + payload)
    with pytest.raises(CheckpointError, match=message):
        History(path)


def test_layers_have_a_history_too(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    for granularity, number in (("weight", 576), ("kernel", 64)):
        net = ng.sparsify(model, 0.5, granularity=granularity)
        ng.rewire(net, torch.optim.SGD(net.parameters(), lr=0.1), 5, history=tmp_path / f"{granularity}.history")
        history = History(tmp_path / f"{granularity}.history")
        assert [(part.name, part.role) for part in history.parts] == [("2.weight", None), ("4.weight", None)]
        moment = history.at(0)
        assert len(moment.real) == number and int(moment.real.sum()) == number // 2
        size = net[2].weight.detach().flatten() if granularity == "weight" else net[2].weight.detach().flatten(2).norm(dim=2).flatten()
        torch.testing.assert_close(moment.weight, size.where(moment.real, torch.zeros(())), rtol=1e-3, atol=1e-6)


def test_what_cannot_be_recorded_is_refused(tmp_path):
    path = tmp_path / "a.history"
    train(network(), path, 3)
    other = ng.StaticNeuralGraph(ng.wirings.blocks([3, 8, 2]), ng.TopK(k=20))
    with pytest.raises(InputError, match="history of another model"):
        train(other, path, 3)
    path.write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="no history"):
        train(network(), path, 3)
    assert path.read_bytes() == b"something else"
    with pytest.raises(RunError, match="cannot write"):
        train(network(), tmp_path / "absent" / "a.history", 3)
    with pytest.raises(InputError, match="every"):
        Recorder(path, 0)
    link = tmp_path / "link.history"
    link.symlink_to(tmp_path / "target")
    with pytest.raises(RunError, match="cannot write"):
        train(network(), link, 3)


def test_it_is_compact(tmp_path):
    """32,000 edges that move a little: what 160 records take is within 20 MB."""
    generator = np.random.default_rng(0)
    weight = (generator.uniform(-1, 1, 325_760) / 28).astype(np.float32)
    before, size = None, len(first_record([]))
    for step in range(3):
        order = np.sort(np.argsort(np.abs(weight), kind="stable")[-32_000:])
        record, before = step_record(step, [(order, weight[order])], before)
        size = max(size, len(record))
        weight = weight + generator.normal(0, 1e-3, len(weight)).astype(np.float32)
    assert 160 * size < 20e6
