"""What there is to see of runs, histories, models and wirings."""

import shutil

import pytest
import torch
from older import write_wirings

import neuralgraph as ng
from neuralgraph.errors import InputError
from neuralgraph.explorer.sources import source_of
from neuralgraph.rewiring import History, Recorder


def test_runs_without_a_history_show_their_epochs(run, tmp_path):
    shutil.copytree(run, tmp_path / "old")
    last = ng.training.history(run).steps[-1]
    write_wirings(tmp_path / "old", [0, last // 2, last])
    (tmp_path / "old" / "wiring.history").unlink()
    source = source_of(tmp_path / "old")
    assert "no wiring.history" in source.notes[0] and len(source.metrics) == 2
    path = tmp_path / "epochs.history"
    path.write_bytes(source.history)
    history, whole = History(path), History(run / "wiring.history")
    steps = 2 * [0] + [whole.steps[-1]]
    assert history.steps == [0, steps[-1] // 2, steps[-1]]
    part, full = history.parts[0], whole.parts[0]
    for step in history.steps:
        one, other = history.at(step), whole.at(step)
        assert set(zip(part.src[one.real].tolist(), part.dst[one.real].tolist())) == set(
            zip(full.src[other.real].tolist(), full.dst[other.real].tolist()))
    (tmp_path / "old" / "wiring.history").write_bytes(b"damaged")
    assert "cannot be read" in source_of(tmp_path / "old").notes[0]


def test_every_kind_of_thing_can_be_explored(run, tmp_path):
    net = ng.StaticNeuralGraph(ng.wirings.blocks([3, 8, 2]), ng.TopK(k=20))
    ng.rewire(net, torch.optim.SGD(net.parameters(), 0.1), 3, history=Recorder(tmp_path / "n.history"))
    dynamic = ng.DiscreteTimeNeuralGraph(ng.wirings.complete(12, inputs=2, outputs=2), ng.TopK(k=30), steps=2)
    for what in (run, str(run), tmp_path / "n.history", History(tmp_path / "n.history"), net, net.wiring, dynamic,
                 net.learned_wiring(), ng.models.create("mobilenet-dnw", width=0.1, image_size=32)):
        source = source_of(what)
        assert source.graphs and source.history
    shown = ng.explore(net)
    assert shown.path is None and "srcdoc=" in shown._repr_html_() and "</script>" not in shown._repr_html_()


def test_a_training_of_anybodys_model_can_be_explored(tmp_path):
    x = torch.linspace(-1, 1, 64).view(64, 1, 1, 1)
    net = ng.StaticNeuralGraph(ng.wirings.blocks([1, 8, 1], ng.NodeFunction("bias activation")), ng.TopK(k=12))
    ng.training.fit(net, list(zip(x.split(16), x.split(16))), folder=tmp_path / "fit", epochs=3,
                    loss=torch.nn.functional.mse_loss)
    source = source_of(tmp_path / "fit")
    assert ng.training.history(tmp_path / "fit").steps[-1] == 12 and len(source.graphs[0].label) == 10
    assert [row["step"] for row in source.metrics] == [4, 8, 12]


def test_a_run_that_grows_shows_its_last_round(run, tmp_path):
    shutil.copytree(run, tmp_path / "round-0")
    shutil.copy(run / "recipe.json", tmp_path)
    assert source_of(tmp_path).history == source_of(run).history
    assert ng.training.history(tmp_path).steps == History(run / "wiring.history").steps


def test_ten_million_edges_are_refused(monkeypatch):
    from neuralgraph.explorer import sources
    monkeypatch.setattr(sources, "MOST_EDGES", 100)
    with pytest.raises(InputError, match="204 edges, more than the 100 that can be shown"):
        ng.explore(ng.wirings.blocks([4, 16, 7]))
