"""Comparing and drawing runs: what is shown is what the runs hold."""

import dataclasses
import io
import shutil
import sys

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings, strategies as st
from older import write_wirings
from PIL import Image
from stopping import StopAfter

import neuralgraph as ng
from neuralgraph.cli import main
from neuralgraph.errors import CheckpointError, InputError, MissingPackageError
from neuralgraph.training import RECIPES, Run
from neuralgraph.training.report import DRAWN, compare, draw, read_records

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One finished run and one that has not begun."""
    full = ng.data.load("digits")
    data = dataclasses.replace(full, train_images=full.train_images[:80],
                               train_labels=full.train_labels[:80],
                               test_images=full.test_images[:40], test_labels=full.test_labels[:40])
    recipe = dataclasses.replace(RECIPES["tiny-static"], epochs=2, batch_size=40, k=3000)
    folder = tmp_path_factory.mktemp("runs")
    trained = Run.create(recipe, folder / "dnw" / "seed-0", data)
    trained.train()
    waiting = Run.create(dataclasses.replace(recipe, selector="random"), folder / "rg" / "seed-0", data)
    return trained, waiting


def test_the_table_holds_what_the_runs_hold(runs):
    trained, waiting = runs
    first, second = compare(read_records([run.folder for run in runs]))
    rows = trained.progress.rows
    assert first["run"] == "dnw/seed-0" and second["run"] == "rg/seed-0"
    assert first["epochs"] == "2/2" and second["epochs"] == "0/2"
    assert first["best"] == max(row["test_accuracy"] for row in rows)
    assert first["last"] == rows[-1]["test_accuracy"] and first["loss"] == rows[-1]["test_loss"]
    assert first["multiply_adds"] == rows[-1]["multiply_adds"]
    assert first["dead_nodes"] == rows[-1]["dead_nodes"]
    assert first["k"] == second["k"] == 3000
    assert first["seconds"] == pytest.approx(sum(row["seconds"] for row in rows))
    assert second["best"] is second["last"] is None


def test_the_command_prints_and_draws(runs, tmp_path):
    folders = [str(run.folder) for run in runs]
    result = CliRunner().invoke(main, ["report", *folders, "--out", str(tmp_path / "png")])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].split()[0] == "run" and lines[1].split()[:2] == ["dnw/seed-0", "2/2"]
    assert lines[2].split()[:4] == ["rg/seed-0", "0/2", "-", "-"]
    assert len({len(line) for line in lines[:3]}) == 1 and len(lines[0]) <= 100
    names = sorted(path.name for path in (tmp_path / "png").iterdir())
    assert names == sorted(["learning-curves.png", "dnw-seed-0-rewiring.png", *(
        f"{run}-seed-0-{kind}.png" for run in ("dnw", "rg")
        for kind in ("graph", "adjacency", "degrees", "weights"))])
    for name in names:
        with Image.open(tmp_path / "png" / name) as picture:
            assert min(picture.size) > 500
            assert len(picture.convert("L").getcolors()) > 2


def test_runs_of_before_there_were_histories(runs, tmp_path):
    """Every reader takes a folder that has wiring/epoch-N.npz instead of a history."""
    old = tmp_path / "old"
    shutil.copytree(runs[0].folder, old)
    ends = [0, runs[0].steps_per_epoch, 2 * runs[0].steps_per_epoch]
    paths, found = write_wirings(old, ends), ng.training.history(old)
    (old / "wiring.history").unlink()
    (real, weight), = ng.training.read_wirings(paths[1])
    assert torch.equal(real, found.at(ends[1]).real) and torch.equal(weight, found.at(ends[1]).weight[real])
    line, = compare(read_records([old]))
    assert line["k"] == 3000 and line["last"] == runs[0].progress.rows[-1]["test_accuracy"]
    for command in (["report", str(old), "--out", str(tmp_path / "png")], ["inspect", str(old)]):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0 and "3,000" in result.output.replace("3000", "3,000"), result.output
    assert Run.open(old, runs[0].data).train() == runs[0].progress.rows


def test_k_is_what_was_real_after_the_last_epoch(runs, tmp_path):
    """Not what is real within the epoch that is going on."""
    recipe = dataclasses.replace(runs[0].recipe, selector="gradual", k=300, selector_options={"every": 1})
    run = Run.create(recipe, tmp_path / "run", runs[0].data)
    with pytest.raises(ng.training.Interrupted):
        run.train(StopAfter(3))
    after_one = int(ng.training.history(run.folder).at(2).real.sum())
    assert compare(read_records([run.folder]))[0]["k"] == after_one > run.model.networks[0].num_real


@pytest.mark.parametrize("arguments, error, message", [
    (["nowhere"], CheckpointError, "the folder of a run"),
    (["run", "./run"], InputError, "given twice")])
def test_bad_folders(runs, tmp_path, monkeypatch, arguments, error, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").symlink_to(runs[0].folder)
    with pytest.raises(error, match=message):
        read_records(arguments)


def test_a_folder_that_cannot_be_written(runs, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ng.errors.RunError, match="cannot write"):
        draw(read_records([runs[0].folder]), tmp_path / "file")


# The drawings


def test_learning_curves_and_rewiring_show_every_epoch(runs):
    rows = runs[0].progress.rows
    figure = ng.plots.learning_curves({"a": rows, "b": rows[:1]})
    for axes, name in zip(figure.axes, ("test_accuracy", "train_loss")):
        lines = [line.get_xydata().tolist() for line in axes.get_lines()]
        assert lines == [[[row["epoch"], row[name]] for row in part] for part in (rows, rows[:1])]
    left, right = ng.plots.rewiring(rows).axes
    assert left.get_lines()[0].get_ydata().tolist() == [row["threshold"] for row in rows]
    assert [bar.get_height() for bar in right.patches] == [row["swapped_edges"] for row in rows]


def test_adjacency_orders_nodes_by_block():
    """Node 0 is in the last block: it comes last, and the edges move with it."""
    wiring = ng.wirings.from_edges([(1, 2), (2, 0), (1, 0)], inputs=[1], outputs=[0])
    wiring_blocks = wiring.block.tolist()
    order = sorted(range(3), key=lambda node: wiring_blocks[node])
    place = {node: rank for rank, node in enumerate(order)}
    axes, = ng.plots.adjacency(wiring).axes
    dots = {tuple(dot) for dot in axes.collections[0].get_offsets().tolist()}
    assert dots == {(place[u], place[v]) for u, v in zip(wiring.src.tolist(), wiring.dst.tolist())}
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # rows run downwards, as in a matrix


def test_boundaries_lie_between_blocks():
    axes, = ng.plots.adjacency(ng.wirings.blocks([3, 5, 2])).axes
    across = sorted(line.get_ydata()[0] for line in axes.get_lines() if line.get_ydata()[0] ==
                    line.get_ydata()[1])
    assert across == [2.5, 7.5]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1", "2"]


def test_histograms_count_every_node_and_edge():
    net = ng.StaticNeuralGraph(ng.wirings.blocks([3, 20, 30, 4]), ng.TopK(k=100))
    net.eval()
    inward, outward = ng.plots.degree_histograms(net).axes
    assert sum(bar.get_height() for bar in inward.patches) == 54
    assert sum(bar.get_height() for bar in outward.patches) == 53
    wiring = net.learned_wiring()
    into, _ = ng.analysis.degrees(wiring)
    dead = int((into[wiring.role != 1] == 0).sum())
    assert inward.patches[0].get_height() == dead and f"{dead} nodes at 0" in inward.get_title()
    axes, = ng.plots.weight_histogram(net).axes
    assert sum(bar.get_height() for bar in axes.patches) == net.wiring.num_edges
    labels = axes.get_legend_handles_labels()[1]
    assert labels[:2] == [f"{net.wiring.num_edges - 100:,} hallucinated edges", "100 real edges"]


@given(seed=st.integers(0, 100), k=st.integers(1, 30), scale=st.sampled_from([1.0, 1e-3, 1e4]),
       ties=st.booleans(), small=st.booleans())
@settings(max_examples=25, deadline=None)
def test_no_bin_of_weights_holds_real_and_absent_edges(seed, k, scale, ties, small):
    net = ng.StaticNeuralGraph(ng.wirings.blocks([3, 6, 4]), ng.TopK(k=k), seed=seed).eval()
    with torch.no_grad():
        net.weight.mul_(scale)
        if ties:  # at the threshold on both sides of 0
            order = net.weight.abs().argsort(descending=True)
            net.weight[order[:k]] = net.weight[order[k - 1]].abs() * torch.tensor([1.0, -1.0]).repeat(k)[:k]
            net.weight[order[k:]] *= 0.9999
        if small:  # what is real is nearly nothing beside the largest
            net.weight[net.weight.abs().argmax()] *= 1e5
    axes, = ng.plots.weight_histogram(net).axes
    bars = {}
    for number, group in enumerate(axes.containers):
        for bar in group:
            bars.setdefault(bar.get_x(), []).append((number, bar.get_height()))
    for held in bars.values():
        assert sum(height > 0 for _, height in held) <= 1
    assert sum(height for held in bars.values() for _, height in held) == net.wiring.num_edges
    threshold = float(net.weight.detach()[net.selection().real].abs().min())
    most = float(net.weight.detach().abs().max())
    assert min(abs(bar.get_x() - threshold) for group in axes.containers for bar in group) < 1e-9 * most


def test_every_drawing_has_a_title_and_names_of_its_axes(runs):
    """Of the run and what it shows; a name may be anything, and a long one is shortened."""
    rows, net = runs[0].progress.rows, runs[0].model.networks[0]
    name = "cost $\\frac{" + "x" * 200
    figures = [ng.plots.rewiring(rows, name), *(draw_one(net, name) for draw_one in DRAWN.values())]
    for figure, what in zip(figures, ["rewiring", *DRAWN]):
        figure.canvas.draw()
        title = figure.get_suptitle()
        assert title.startswith("cost \\$\\frac{x") and len(title) < 100 and what.split()[0] in title
        assert all(axes.get_xlabel() for axes in figure.axes) and figure.axes[0].get_window_extent().height > 300
        if what != "graph":
            assert all(axes.get_ylabel() for axes in figure.axes)
    curves = ng.plots.learning_curves({"a": rows, "b": rows})
    assert curves.get_suptitle() == "2 runs: learning curves"
    assert ng.plots.learning_curves({"a": rows}).get_suptitle() == "a: learning curves"


def test_labels_of_many_blocks_do_not_overlap():
    wiring = ng.wirings.chain([1] * 120)
    for draw_one in (ng.plots.adjacency, ng.plots.graph):
        figure = draw_one(wiring)
        figure.canvas.draw()
        boxes = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
        assert len(boxes) > 10 and all(a.x1 < b.x0 for a, b in zip(boxes, boxes[1:]))


def test_a_figure_shows_itself_in_a_notebook():
    """Once, with and without pyplot, and what is shown is the picture."""
    formatter = pytest.importorskip("IPython.core.formatters").DisplayFormatter()
    figure = ng.plots.adjacency(ng.wirings.blocks([3, 6, 2]))
    data, metadata = formatter.format(figure)
    assert set(data) == {"image/png", "text/plain"}
    with Image.open(io.BytesIO(data["image/png"])) as picture:
        assert picture.size == tuple(figure.get_size_inches() * 150)
    assert metadata["image/png"]["width"] == round(96 * figure.get_size_inches()[0])
    import matplotlib.pyplot as plt
    assert not plt.get_fignums()  # nothing that is drawn at the end of a cell


def test_a_wiring_that_never_changes_is_drawn():
    rows = [{"epoch": 1, "threshold": float("nan"), "swapped_edges": 0}]
    for part in (rows, []):
        figure = ng.plots.rewiring(part)
        figure.canvas.draw()
        assert all(axes.get_ylim()[0] == 0 for axes in figure.axes)


@pytest.mark.parametrize("k", [0, None])
def test_empty_and_complete_wirings_are_drawn(k):
    selector = ng.Complete() if k is None else ng.TopK(k=k)
    net = ng.StaticNeuralGraph(ng.wirings.blocks([2, 3, 1]), selector).eval()
    for draw_one in (ng.plots.adjacency, ng.plots.degree_histograms, ng.plots.weight_histogram):
        draw_one(net).canvas.draw()


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "neuralgraph.analysis.figure", raising=False)
    with pytest.raises(MissingPackageError, match=r"pip install 'neuralgraph\[plot\]'"):
        ng.plots.rewiring([])


def test_drawing_leaves_the_network_alone():
    net = ng.StaticNeuralGraph(ng.wirings.blocks([2, 5, 1]), ng.TopK(k=9))
    before = net.weight.detach().clone()
    ng.plots.adjacency(net)
    ng.plots.weight_histogram(net)
    assert net.training and torch.equal(net.weight.detach(), before)


def test_any_name_of_a_run_is_drawn_as_text(tmp_path):
    """Formulas, labels that matplotlib would leave out, bytes that are no text."""
    rows = [{"epoch": 1, "test_accuracy": 50.0, "train_loss": 1.0, "threshold": 0.1, "swapped_edges": 3}]
    names = ["cost $5", "$\\frac{", "_hidden", "caf\udce9", "plain"]
    figure = ng.plots.learning_curves({name: rows for name in names})
    figure.savefig(tmp_path / "curves.png")
    shown = [text.get_text().strip() for text in figure.legends[0].get_texts()]
    assert shown == [r"cost \$5", r"\$\frac{", "_hidden", r"caf\udce9", "plain"]


def test_blocks_may_have_any_numbers():
    graph = ng.wirings.blocks([2, 3, 1]).data
    graph.ndata["block"] = torch.tensor([0, 10**6, 2**31 - 1])[graph.ndata["block"]]
    wiring = ng.Wiring(graph)
    assert ng.analysis.block_counts(wiring) == {(0, 10**6): 6, (0, 2**31 - 1): 2, (10**6, 2**31 - 1): 3}
    axes, = ng.plots.adjacency(wiring).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1000000", "2147483647"]
