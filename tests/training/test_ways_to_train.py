"""Every selector and kind of network learns by the loop of the recipes."""

import dataclasses

import pytest
import torch
from quick import QUICK, ExactK, same, small_run
from stopping import StopAfter

import neuralgraph as ng
from neuralgraph.errors import InputError, RunError
from neuralgraph.training import RECIPES, Interrupted, Run

BASE = dataclasses.replace(RECIPES["tiny-static"], epochs=1, batch_size=16, lr=0.05, k=32_000)


def every(number):
    """Every second, third, ... digit to train with."""
    full = ng.data.load("digits")
    return dataclasses.replace(full, train_images=full.train_images[::number], train_labels=full.train_labels[::number])


def learned(folder, **changes):
    """One epoch over half of the digits: the run, its rows, and how many edges were real at any step."""
    run, watcher = Run.create(dataclasses.replace(BASE, **changes), folder, every(2)), ExactK()
    return run, run.train(watcher), watcher


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    return learned(tmp_path_factory.mktemp("complete") / "r", selector="complete", k=None)


@pytest.mark.parametrize("selector", ["dnw", "random", "no-update", "complete", "l1-anneal", "targeted-dropout",
                                      "targeted-dropout-regular"])
def test_every_selector_learns_with_exactly_k(tmp_path, request, selector):
    """Far above chance (10 %), and never another number of real edges."""
    run, rows, watcher = request.getfixturevalue("complete") if selector == "complete" else \
        learned(tmp_path / "r", selector=selector)
    assert rows[-1]["test_accuracy"] > 50
    network, = run.model.networks
    if selector == "l1-anneal":
        assert min(watcher.counts) == (32_000,) and max(watcher.counts) == (325_760,)
    else:
        assert watcher.counts == {(network.selector.num_real,)}
    assert (rows[-1]["swapped_edges"] > 0) == (selector not in ("random", "complete", "l1-anneal"))


def test_tickets_and_fine_tuned_networks_learn(tmp_path, complete):
    for selector, rate in (("lottery-ticket", 0.05), ("fine-tune", 0.01)):
        _, rows, _ = learned(tmp_path / selector, selector=selector, lr=rate, source=str(complete[0].folder))
        assert rows[-1]["test_accuracy"] > 70 and rows[-1]["swapped_edges"] == 0


def test_discrete_time_learns(tmp_path):
    recipe = dataclasses.replace(RECIPES["tiny-discrete"], epochs=1, batch_size=16, steps=3)
    assert Run.create(recipe, tmp_path / "r", every(2)).train()[-1]["test_accuracy"] > 70


def test_continuous_time_learns(tmp_path):
    """A quarter of the digits, a solver of eight cheap steps."""
    recipe = dataclasses.replace(RECIPES["tiny-continuous"], epochs=1, batch_size=16, solver="euler")
    assert Run.create(recipe, tmp_path / "r", every(4)).train()[-1]["test_accuracy"] > 50


@pytest.mark.parametrize("selector", ["no-update", "l1-anneal", "targeted-dropout",
                                      "targeted-dropout-regular"])
def test_other_selectors_resume_exactly(data, tmp_path, selector):
    recipe = dataclasses.replace(QUICK, selector=selector)
    whole = Run.create(recipe, tmp_path / "whole", data)
    whole.train()
    run = Run.create(recipe, tmp_path / "parts", data)
    with pytest.raises(Interrupted):
        run.train(StopAfter(4))
    resumed = Run.open(tmp_path / "parts", data)
    resumed.train()
    assert same(resumed, whole)
    network, = whole.model.networks
    whole.model.eval()
    assert network.selection().real.sum() == network.selector.num_real
    if selector != "targeted-dropout-regular":
        assert network.selector.num_real == 3000


def test_lottery_ticket_and_fine_tuning(data, tmp_path):
    """Both take the largest weights of a finished complete run; one starts again, one goes on."""
    source = small_run(data, tmp_path / "complete", selector="complete", k=None)
    trained = source.model.networks[0].weight.detach()
    fresh = Run.create(source.recipe, tmp_path / "fresh", data)
    settings = {"source": str(source.folder), "k": 2000, "epochs": 1}
    ticket = Run.create(dataclasses.replace(QUICK, selector="lottery-ticket", seed=5, **settings), tmp_path / "a", data)
    tuned = Run.create(dataclasses.replace(QUICK, selector="fine-tune", lr=0.01, **settings), tmp_path / "b", data)
    for run, values in ((ticket, fresh), (tuned, source)):
        network, = run.model.networks
        real = network.selection().real
        assert real.sum() == 2000
        assert trained[real].abs().min() >= trained[~real].abs().max()
        expected = values.model.state_dict()
        for name, value in run.model.state_dict().items():
            assert ".selector." in name or torch.equal(value, expected[name]), name
        run.train()
        assert torch.equal(Run.open(run.folder, data).model.networks[0].selection().real, real)


def test_two_phase_runs_need_a_finished_source(data, undisturbed, tmp_path):
    unfinished = Run.create(dataclasses.replace(QUICK, selector="complete", k=None), tmp_path / "u", data)
    other = Run.create(dataclasses.replace(QUICK, model="tiny-discrete", epochs=0, selector="complete",
                                           k=None), tmp_path / "o", data)
    cases = [({"selector": "lottery-ticket"}, "--set source=FOLDER"),
             ({"selector": "fine-tune", "source": str(tmp_path / "x")}, "the folder of a run"),
             ({"selector": "fine-tune", "source": str(unfinished.folder)}, "is not finished"),
             ({"selector": "fine-tune", "source": str(other.folder)}, "same model"),
             ({"selector": "lottery-ticket", "source": str(undisturbed.folder)}, "no checkpoint"),
             ({"selector": "dnw", "source": str(undisturbed.folder)}, "leave source out")]
    for changes, message in cases:
        with pytest.raises((InputError, RunError), match=message):
            Run.create(dataclasses.replace(QUICK, **changes), tmp_path / "r", data)
        assert not (tmp_path / "r").exists()
