"""What notebooks show: tables and curves that say what the objects hold, and a bar that is brought up to date."""

import json
import re
import sys
import types
from html import unescape
from xml.etree import ElementTree

import networkx as nx
import pytest
import torch
from hypothesis import example, given, settings, strategies as st
from torch import nn

import neuralgraph as ng
from neuralgraph import _html
from neuralgraph._files import printable
from neuralgraph.analysis.speed import Speed, Speeds, Timing
from neuralgraph.growing import SplitNode, SplitReport
from neuralgraph.layers import LayerSummary, Shrunk, Summary
from neuralgraph.selectors import Selection
from neuralgraph.sharing import Similarity
from neuralgraph.training.arena import Arena
from neuralgraph.training.progress import Progress
from neuralgraph.training.report import Record, Records
from neuralgraph.training.reproduce import Reproduction

HOSTILE = "</script><b onload='x'>&amp;\udce9\x1b[31m" + "long" * 2500


def cells(html):
    """The rows of the first table, as texts."""
    found = ElementTree.fromstring(html)
    return [["".join(cell.itertext()) for cell in row] for row in next(found.iter("table")).iter("tr")]


def net():
    return ng.StaticNeuralGraph(ng.wirings.blocks([2, 4, 2]), ng.TopK(k=9)).eval()


texts = st.text(st.characters(exclude_characters="\ufffe\uffff"), max_size=300)  # which XML cannot say


@given(rows=st.lists(st.lists(st.one_of(texts, st.integers(), st.floats(-1e300, 1e300), st.none(), st.booleans()),
                              min_size=2, max_size=2), max_size=40), title=texts)
@settings(max_examples=60, deadline=None)
def test_a_table_holds_texts_whatever_is_in_them(rows, title):
    html = _html.table(("a", "<b>"), rows, title, notes=[title])
    html.encode()  # no half of a character
    head, *shown = cells(html)
    assert head == ["a", "<b>"]
    most = _html.MOST_ROWS
    kept = rows if len(rows) <= most else [*rows[:most // 2], None, *rows[-(most // 2):]]
    assert len(shown) == len(kept)
    for got, row in zip(shown, kept):
        if row is None:
            assert got == [f"… {len(rows) - most:,} more …"]
            continue
        for cell, value in zip(got, row):
            if isinstance(value, str):
                whole = printable(value)
                assert cell == whole if len(whole) <= 150 else whole.startswith(cell.rstrip("…")) and len(cell) <= 200
            elif value is None:
                assert cell == ""
            elif isinstance(value, bool):
                assert cell == str(value)
            else:
                assert float(cell.replace(",", "")) == pytest.approx(value, rel=1e-4, nan_ok=True)


@given(points=st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6) | st.just(float("nan"))), max_size=20))
@example(points=[(0.0, 0.0), (0.0, 5e-324)])  # the least difference there is
@settings(max_examples=40, deadline=None)
def test_a_curve_stays_in_its_frame_and_rises_where_the_numbers_do(points):
    svg = _html.curve({"</svg>": points}, "epoch", "a < b")
    finite = [(x, y) for x, y in points if y == y]
    if not finite:
        assert svg == ""
        return
    tree = ElementTree.fromstring(svg)
    line = next(element for element in tree if element.tag.endswith("polyline"))
    drawn = [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]
    assert len(drawn) == len(finite)
    assert all(0 <= x <= _html.WIDTH and 0 <= y <= _html.HEIGHT for x, y in drawn)
    for (x0, y0), (x1, y1), (a0, b0), (a1, b1) in zip(finite, finite[1:], drawn, drawn[1:]):
        assert (a1 - a0) * (x1 - x0) >= 0 and (b1 - b0) * (y1 - y0) <= 0
    assert "a < b over epoch" in [element.text for element in tree]


def test_results_show_what_they_say(tmp_path):
    """Of every kind of result, the numbers that its text has."""
    model = ng.sparsify(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), 0.5)
    rows = cells(ng.layers.summary(model)._repr_html_())
    assert rows[0] == ["layer", "real", "of weights", "%", ""] and len(rows) == 3
    found = ng.layers.summary(model).layers
    assert [row[:2] for row in rows[1:]] == [[one.name, "" if one.real is None else str(one.real)] for one in found]
    assert any(row[4].startswith("dense: ") for row in rows[1:])

    smaller = Shrunk((("0", (3, 8), (3, 5)),), (1234, 567), {"1": "a loop"})
    assert cells(smaller._repr_html_())[1] == ["0", "3 -> 8", "3 -> 5"]
    assert "1,234 before, 567 after" in smaller._repr_html_() and "left whole: 1, a loop" in smaller._repr_html_()

    node = SplitNode("a", -0.5, 0.25, 1000.0, True)
    report = SplitReport((node, SplitNode("b", 1.0, 0.0, 10.0, False)), {"is an input": ("c",)}, 0.1, 1.0, 0.9, -0.11, 10, 20, {})
    assert cells(report._repr_html_())[1:] == [["a", "-0.5", "0.25", "1,000"]]
    assert "not split, 1: is an input (c)" in report._repr_html_()

    null = ng.analysis.null_model(net(), "feed-forward-loops", samples=5)
    head, row = cells(null._repr_html_())
    assert dict(zip(head, row))["z"] == f"{null.z:.5g}" and dict(zip(head, row))["observed"] == f"{null.observed:.5g}"

    edges, nodes = torch.tensor([0.0, -3.0, 2.0]), torch.tensor([1.0])
    tables = list(ElementTree.fromstring(ng.analysis.Attribution(edges, nodes)._repr_html_()).iter("table"))
    assert [["".join(cell.itertext()) for cell in row] for row in tables[0].iter("tr")][1:3] == [["1", "-3"], ["2", "2"]]

    wiring = net().learned_wiring()
    circuit = ng.analysis.Circuit(3, (torch.ones(9, dtype=torch.bool),), (wiring,), 0.9, 0.95, 20)
    assert dict(cells(circuit._repr_html_()))["balanced accuracy (%)"] == "90" and circuit._repr_html_().count("<line") == 9

    assert dict(cells(ng.analysis.cost(net(), 4, 4)._repr_html_()))["multiply-adds per image"] == \
        f"{ng.analysis.cost(net(), 4, 4).multiply_adds:,}"
    dead = ng.analysis.dead_nodes(ng.wirings.blocks([1, 2, 1]), torch.tensor([True, False, True, True, False]))
    assert dict(cells(dead._repr_html_())) == {"without in-edge": "1", "without out-edge": "1", "either": "1", "of": "4"}

    speeds = Speeds(dense=Speed(Timing(4.0, 3.0, 5.0), 100.0, 1.0, 0.0), fast=Speed(Timing(1.0, 0.5, 2.0), 400.0, 4.0, 1e-7))
    assert cells(speeds._repr_html_())[2] == ["fast", "1", "0.50 to 2.00", "400", "4", "4", "1e-07"]
    assert speeds == dict(speeds) and cells(Speeds()._repr_html_())

    similar = Similarity(("a", "b"), torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
    assert cells(similar._repr_html_()) == [["", "a", "b"], ["a", "1", "0.5"], ["b", "0.5", "1"]]
    chosen = Selection(torch.tensor([True, False]), torch.tensor([0.5, 0.0]), True)
    assert dict(cells(chosen._repr_html_()))["real edges"] == "1"
    assert dict(cells(ng.training.RECIPES["tiny-static"]._repr_html_()))["selector"] == "dnw"


def test_runs_show_what_they_hold(tmp_path):
    """Two epochs of a small network: metrics, accuracy, wiring; the history its turnover."""
    x = torch.linspace(-1, 1, 64).view(64, 1, 1, 1)
    graph = ng.StaticNeuralGraph(ng.wirings.blocks([1, 8, 1], ng.NodeFunction("bias activation")), ng.TopK(k=12))
    ng.training.fit(graph, list(zip(x.split(16), x.split(16))), folder=tmp_path / "fit", epochs=3,
                    loss=torch.nn.functional.mse_loss)
    found = ng.training.history(tmp_path / "fit")
    assert cells(found._repr_html_())[1] == ["network", "17", "12", f"{found.at().threshold:.5g}"]
    line = next(one for one in ElementTree.fromstring(found._repr_html_()).iter() if one.tag.endswith("polyline"))
    assert len(line.get("points").split()) == len(found.turnover())
    assert dict(cells(found.at(1)._repr_html_()))["real"] == "12"
    records = ng.training.report.read_records([tmp_path / "fit"])
    assert isinstance(records, list) and cells(records._repr_html_())[1][:4] == ["fit", "", "", "3/3"]
    assert dict(cells(records[0]._repr_html_()))["k"] == "12"

    run = ng.training.Run.create(ng.training.RECIPES["tiny-static"].with_settings({"epochs": "2"}), tmp_path / "run")
    rows = [{"epoch": n, "test_accuracy": 10.0 * n, "multiply_adds": 5000, "train_loss": 1.0, "seconds": 1.0} for n in (1, 2)]
    before = dict(cells(run._repr_html_()))
    assert before["epochs"] == "0 of 2" and "best (%)" not in before
    run.loop.progress = Progress(epoch=2, rows=rows)
    shown = dict(cells(run._repr_html_()))
    assert (shown["test accuracy (%)"], shown["in epoch"], shown["real edges"]) == ("20", "2", "300")
    assert run._repr_html_().count("<line") == 300 and "<polyline" in run._repr_html_()
    assert cells(run.progress._repr_html_())[2][:2] == ["2", "20"]
    record = Record("one", tmp_path, run.recipe, 2, rows, 300)
    assert dict(cells(record._repr_html_()))["best %"] == "20"
    assert cells(Records([record, record])._repr_html_())[1][4] == "20" and cells(Records()._repr_html_()) == []


def test_comparisons_show_what_is_known_of_them(tmp_path):
    arena = Arena(ng.training.RECIPES["tiny-static"], "dnw,random", tmp_path, seeds=2)
    assert "no run is finished; contenders: dnw, random" in arena._repr_html_()
    one = {"label": "dnw", "last": {"mean": 90.0, "std": 1.0}, "difference": None, "k": {"mean": 300.0},
           "multiply_adds": None, "dead_nodes": None, "runs": [{}, {}]}
    other = {**one, "label": "random", "difference": {"mean": -5.0, "low": None, "high": None}, "runs": [{}]}
    (tmp_path / "arena.json").write_text(json.dumps({"contenders": [one, other]}))
    assert cells(arena._repr_html_())[1:] == [["dnw", "90", "1", "", "", "", "300", "", "", "2 of 2"],
                                              ["random", "90", "1", "-5", "", "", "300", "", "", "1 of 2"]]
    table = Reproduction("table1", tmp_path, "digits", rows=["static-dnw"], seeds=2)
    assert "no run is finished" in table._repr_html_()


def test_models_show_their_graphs():
    model = ng.models.create("tiny-static", k=300, image_size=8, in_channels=1)
    assert model._repr_html_().count("<svg") == 1 and "300 real of 325,760" in model._repr_html_()
    layers = ng.models.create("tiny-convnet", image_size=8, in_channels=1)
    assert cells(layers._repr_html_())[0][:2] == ["layer", "real"]
    plain = ng.models.Classifier(nn.Flatten(), [], nn.Linear(64, 2), in_channels=1, image_size=8)
    assert plain._repr_html_() is None  # so that the text is shown


def test_hostile_names_are_text_and_short(tmp_path):
    one = LayerSummary(HOSTILE, 10, 5)
    shown = [Summary((one, LayerSummary("b", 3, None, HOSTILE))), Shrunk(((HOSTILE, (1, 2), (3, 4)),), (1, 2), {HOSTILE: HOSTILE}),
             Similarity((HOSTILE,), torch.ones(1, 1)), Speeds({HOSTILE: Speed(Timing(1, 1, 1), 1, 1, 0)}),
             SplitReport((SplitNode(HOSTILE, -1, 1, 1, True),), {HOSTILE: (HOSTILE,)}, 0.1, 1, 1, 0, 1, 1, {}),
             Record(HOSTILE, tmp_path, None, 1, [], 3), Records([Record(HOSTILE, tmp_path, None, 1, [], 3)]),
             ng.from_networkx(nx.DiGraph([(HOSTILE, "b")]))]
    for thing in shown:
        html = thing._repr_html_()
        html.encode()
        ElementTree.fromstring(html)
        assert "<b o" not in html and "&lt;/script&gt;&lt;b onload" in html and len(html) < 6000, type(thing)
        assert not re.search("(long){60}", unescape(html))


# The bar


@pytest.fixture
def notebook(monkeypatch):
    """A stand-in for Jupyter's kernel; what each output shows, in order."""
    outputs = []

    class Handle:
        def __init__(self, content):
            self.shown = [content]
            outputs.append(self)

        def update(self, content, raw):
            assert raw
            self.shown.append(content)

    ipython, display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    display.display = lambda content, raw, display_id: Handle(content)
    ipython.display = display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return outputs


def train(folder, epochs):
    x = torch.linspace(-1, 1, 64).view(64, 1)
    return ng.training.fit(nn.Linear(1, 1), list(zip(x.split(16), x.split(16))), folder=folder, epochs=epochs,
                           loss=torch.nn.functional.mse_loss, watcher=ng.training.ProgressBar())


def test_in_a_notebook_a_training_is_one_output(notebook, tmp_path, capsys):
    rows = train(tmp_path / "run", 30)
    printed = capsys.readouterr()
    assert printed.out == printed.err == "" and len(notebook) == 1
    last = notebook[0].shown[-1]
    assert 'value="120" max="120"' in last["text/html"] and "120 of 120 steps" in last["text/plain"]
    assert len(cells(f"<div>{last['text/html']}</div>")) == 1 + 8  # the last eight epochs
    assert cells(f"<div>{last['text/html']}</div>")[-1][:2] == ["30", f"{rows[-1]['train_loss']:.5g}"]
    assert train(tmp_path / "run2", 1) and len(notebook) == 2


def test_outside_of_notebooks_there_is_a_line_per_epoch(tmp_path, capsys, monkeypatch):
    terminal = types.ModuleType("IPython")
    for shell in (None, types.SimpleNamespace()):  # imported, but no shell; IPython in a terminal
        terminal.get_ipython = lambda: shell
        monkeypatch.setitem(sys.modules, "IPython", terminal)
        rows = train(tmp_path / str(shell), 2)
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 2 and lines[1].startswith(f"epoch 2, train_loss {rows[1]['train_loss']:.4g}")
