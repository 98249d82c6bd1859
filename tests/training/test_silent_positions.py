"""``benchmarks/silent_positions.py``: its selector and its runs."""

import dataclasses
import importlib.util
import json

import pytest
import torch
from checkout import ROOT
from quick import QUICK, same
from stopping import StopAfter

import neuralgraph as ng
from neuralgraph.selectors import SELECTORS
from neuralgraph.training import Interrupted, Run, history


@pytest.fixture
def benchmark():
    spec = importlib.util.spec_from_file_location("silent_positions", ROOT / "benchmarks" / "silent_positions.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del SELECTORS["dnw-silent"]


def test_the_contract(benchmark):
    ng.testing.check_selector(lambda k: benchmark.SilentPositions(k, share=0.3), exact=False)


def test_the_shares_are_those_of_the_authors_masks(benchmark):
    """Counted position by position: rows that a block's columns are multiplied with, and the mask of random edges."""
    ends, carrying = [0, 32, 224, 416, 608, 800], torch.zeros(800, 800, dtype=torch.bool)
    for first, end in zip(ends, ends[1:]):
        carrying[min(end, 700):, first:end] = True
    drawn = torch.ones(800, 800, dtype=torch.bool)
    for number, column in enumerate(range(32, 800, 100), start=1):
        drawn[:number * 100, column:column + 100] = False
    assert carrying.numel() == benchmark.POSITIONS and int(carrying.sum()) == benchmark.CARRYING
    assert int(drawn.sum()) == benchmark.RANDOM and int((drawn & carrying).sum()) == benchmark.RANDOM_CARRYING
    assert benchmark.recipe_of("rg").k == 27_032

    network = ng.models.create("tiny-static", selector="dnw-silent").networks[0]
    silent = network.selector.silent.detach()
    assert len(silent) / (len(silent) + network.wiring.num_edges) == pytest.approx(1 - 264_960 / 640_000, abs=1e-6)
    for drawn in (silent, network.weight.detach()):  # uniform with the same bound
        assert 0.0353 < drawn.abs().max() <= 800**-0.5 and drawn.abs().mean() == pytest.approx(800**-0.5 / 2, rel=0.01)
    assert network.num_real == pytest.approx(13_250, rel=0.03)


def test_silent_weights_decay_and_their_places_are_taken(benchmark, data, tmp_path):
    """m <- mu m + decay w, w <- w - rate m, at the recipe's rates; the largest of all are chosen at every step."""
    recipe = dataclasses.replace(QUICK, selector="dnw-silent", weight_decay=0.02, schedule="step", milestones=(1,))
    run, stopped = (Run.create(recipe, tmp_path / name, data) for name in ("whole", "stopped"))
    network = run.model.networks[0]
    w, m = network.selector.silent.detach().clone(), 0.0
    before = network.num_real
    run.train()
    for epoch in range(2):
        for _ in range(run.steps_per_epoch):
            m = 0.9 * m + 0.02 * w
            w = w - (0.1 if epoch == 0 else 0.01) * m
    torch.testing.assert_close(network.selector.silent.detach(), w, rtol=1e-5, atol=1e-9)
    every = torch.cat([w, network.weight.detach()]).abs()
    chosen = torch.zeros_like(every, dtype=torch.bool).index_fill(0, every.topk(QUICK.k).indices, True)
    assert torch.equal(network.selection().real, chosen[len(w):])
    assert before == pytest.approx(0.414 * QUICK.k, rel=0.1) and before + 100 < network.num_real <= QUICK.k

    with pytest.raises(Interrupted):
        stopped.train(StopAfter(run.steps_per_epoch // 2))
    again = Run.open(stopped.folder, data)
    again.train()
    assert same(again, run)


def test_the_benchmark(benchmark, tmp_path, capsys):
    words = ["--data", "digits", "--out", str(tmp_path), "--seeds", "3", "--set", "epochs=1", "--set",
             "schedule=constant", "--set", "crop_padding=1", "--json", str(tmp_path / "found.json")]
    benchmark.main(words)
    dnw, rg = json.loads((tmp_path / "found.json").read_text())
    assert (dnw["row"], rg["row"]) == ("dnw", "rg") and dnw["recipe"]["selector"] == "dnw-silent"
    assert set(rg["real_edges"].values()) == {27_032} and int(dnw["real_edges"]["0"]) == pytest.approx(13_250, rel=0.03)
    assert dnw["real_edges"]["0"] == int(history(tmp_path / "dnw" / "seed-3").at(0).real.sum())
    benchmark.main(words)  # goes on from there: nothing is left to do
    assert json.loads((tmp_path / "found.json").read_text())[0] == dnw


def test_bad_settings(benchmark):
    with pytest.raises(ng.errors.SelectionError, match="share.*below 1"):
        benchmark.SilentPositions(3, share=1.0)
    with pytest.raises(ng.errors.SelectionError, match="k must be 0 to"):
        ng.StaticNeuralGraph(ng.wirings.blocks([3, 4, 2]), benchmark.SilentPositions(1000))
