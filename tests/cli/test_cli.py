"""The command line as a person meets it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import neuralgraph
from neuralgraph.backends import available
from neuralgraph.cli import main
from neuralgraph.training import open_model

QUICK = ["--epochs", "1", "--set", "k=2000", "--set", "batch_size=200"]


def call(*arguments):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    result = call("train", "tiny-static", *QUICK, "--out", folder)
    assert result.exit_code == 0, result.output
    return folder, result.output


def test_train_says_what_it_does(run):
    folder, output = run
    lines = output.splitlines()
    assert "1438 training and 359 test images, 2000 of 325760 edges" in lines[0]
    assert lines[1].split() == ["epoch", "loss", "train", "%", "test", "%", "threshold", "swapped",
                                "dead", "images/s"]
    assert re.fullmatch(r" +1 +\d\.\d{4} +\d+\.\d\d +\d+\.\d\d +\d\.\d\de-\d\d +\d+ +\d+ +\d+", lines[2])
    assert lines[3].startswith("test accuracy ") and str(folder) in lines[3]
    assert "\r" not in output and "\x1b" not in output
    assert sorted(p.name for p in folder.iterdir() if "tfevents" not in p.name) == [
        "checkpoint.safetensors", "metrics.csv", "recipe.json", "wiring.history"]
    saved = json.loads((folder / "recipe.json").read_text())
    assert saved["recipe"]["k"] == 2000 and saved["recipe"]["batch_size"] == 200


@pytest.mark.parametrize("backend", ["dense", "dgl"])
def test_evaluate(run, backend):
    folder, output = run
    accuracy = output.splitlines()[3].split()[2]
    result = call("evaluate", folder, "--backend", backend)
    assert result.exit_code == 0 and f"test accuracy {accuracy} %" in result.output
    assert ("DGL()" if backend == "dgl" else "Dense()") in result.output


def test_inspect_run_and_file(run, tmp_path):
    folder, _ = run
    result = call("inspect", folder)
    for text in ("900 (768 hidden, 32 input, 100 output)", "2000 of 325760 candidates (0.61 %)",
                 "dead nodes", "out-degree", "longest path", "multiply-adds on 8x8"):
        assert text in result.output
    call("export", folder, "--format", "json", "--out", tmp_path / "w.json")
    again = call("inspect", tmp_path / "w.json")
    lines = result.output.split("\ncost ")[0].splitlines()
    assert again.output.splitlines()[2:] == lines[3:] and len(lines) > 12
    assert "MicroNet score" in result.output and "with norms and biases" in result.output


@pytest.mark.parametrize("format_, read", [
    ("graphml", nx.read_graphml), ("gexf", nx.read_gexf),
    ("json", lambda p: nx.node_link_graph(json.loads(Path(p).read_text())))])
def test_export_is_read_by_networkx(run, tmp_path, format_, read):
    folder, _ = run
    path = tmp_path / f"wiring.{format_}"
    result = call("export", folder, "--format", format_, "--out", path)
    assert result.exit_code == 0 and "900 nodes, 2000 edges" in result.output
    graph = read(path)
    assert graph.number_of_nodes() == 900 and graph.number_of_edges() == 2000
    roles = list(nx.get_node_attributes(graph, "role").values())
    assert [roles.count(r) for r in ("input", "hidden", "output")] == [32, 768, 100]
    node = graph.nodes[40 if format_ == "json" else "40"]
    kernel = node["kernel"] if format_ == "json" else json.loads(node["kernel"])
    assert len(kernel) == 9 and node["block"] == 1 and node["norm"] == "instance"
    assert all(np.isfinite(w) for _, _, w in graph.edges(data="weight"))


def test_export_dot(run, tmp_path):
    call("export", run[0], "--format", "dot", "--out", tmp_path / "w.dot")
    assert (tmp_path / "w.dot").read_text().count(" -> ") == 2000


def test_second_run_gets_its_own_folder_and_resume_finds_the_latest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = ["--epochs", "0", "--set", "k=100"]
    assert call("train", "tiny-static", *quick).exit_code == 0
    assert call("train", "tiny-static", *quick).exit_code == 0
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["tiny-static", "tiny-static-2"]
    result = call("train", "tiny-static", "--resume")
    assert result.exit_code == 0 and "runs/tiny-static-2" in result.output


def test_a_run_on_own_images_resumes_from_another_folder(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for part, count in (("train", 40), ("test", 5)):
        for name in ("cat", "dog"):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            for i in range(count):
                picture = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(picture).save(tmp_path / "images" / part / name / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    result = call("train", "tiny-static", "--data", "images", "--epochs", "1", "--out", "run")
    assert result.exit_code == 0 and "80 training and 10 test images" in result.output
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert call("evaluate", "../run").exit_code == 0
    (tmp_path / "images").rename(tmp_path / "moved")
    assert "no file or folder" in error("evaluate", "../run")
    assert call("inspect", "../run").exit_code == 0  # a wiring is taken away without its images
    assert call("export", "../run", "--format", "json", "--out", "w.json").exit_code == 0
    result = call("train", "tiny-static", "--resume", "--out", "../run", "--data", "../moved")
    assert result.exit_code == 0
    assert call("evaluate", "../run").exit_code == 0
    Image.new("RGB", (8, 8)).save(tmp_path / "moved" / "train" / "cat" / "3.png")
    assert "are not those" in error("train", "tiny-static", "--resume", "--out", "../run")


def test_recipes_are_listed_in_groups():
    from neuralgraph.training import RECIPES

    lines = call("recipes").output.splitlines()
    assert max(map(len, lines)) <= 100
    assert sum(line.startswith("the paper's Table") for line in lines) == 3
    assert {line.split()[0] for line in lines if line.startswith("  ")} == set(RECIPES)


def test_a_saved_recipe_is_trained_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = call("train", "tiny-static", "--epochs", "0", "--set", "k=100", "--out", "first")
    assert first.exit_code == 0
    for source in ("first", "first/recipe.json"):
        result = call("train", source, "--set", "seed=3")
        assert result.exit_code == 0 and "100 of 325760 edges" in result.output
    recipes = [json.loads((tmp_path / folder / "recipe.json").read_text())["recipe"]
               for folder in ("first", "runs/tiny-static", "runs/tiny-static-2")]
    assert {**recipes[0], "seed": 3} == recipes[1] == recipes[2]
    assert "in first" in call("train", "first", "--resume").output


def error(*arguments):
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    text = result.stderr.strip()
    assert text.startswith(("Error: ", "Usage: ")) and "Traceback" not in text
    return text


def test_bad_input(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, _ = run
    (tmp_path / "one" / "cat").mkdir(parents=True)
    (tmp_path / "cifar.tar.gz").write_bytes(b"\x1f\x8b\x08 half of it")
    cases = [
        (("train", "tiny-statc"), "did you mean 'tiny-static'"),
        (("train", "table1-static-dnw"), "name some with --data"),
        (("train", "no/such/recipe.json"), "there is no recipe no/such/recipe.json"),
        (("train", folder, "--resume", "--out", "x"), "leave out --out"),
        (("train", "tiny-static", "--set", "epoch=3"), "did you mean 'epochs'"),
        (("train", "tiny-static", "--set", "lr"), "KEY=VALUE"),
        (("train", "tiny-static", "--set", "lr=quick"), "lr must be a number"),
        (("train", "tiny-static", "--set", "selector=dwn"), "did you mean 'dnw'"),
        (("train", "tiny-static", "--set", "selector=complete"), "--set k=none"),
        (("train", "tiny-static", "--set", "k=-3"), "k must be at least 0"),
        (("train", "tiny-static", "--set", "k=999999"), "at most the 325760"),
        (("train", "tiny-static", "--set", "backend=dgll"), "did you mean 'dgl'"),
        (("train", "tiny-static", "--epochs", "-1"), "x>=0"),
        (("train", "tiny-static", "--data", "one"), "at least two; found 1 (cat)"),
        (("train", "tiny-static", "--data", "cifar.tar.gz"), "truncated or another file"),
        (("train", "tiny-static", "--data", "nowhere/at/all"), "no file or folder"),
        (("train", "tiny-static", "--data", "digitz"), "did you mean 'digits'"),
        (("train", "tiny-static", "--out", folder), "holds another run"),
        (("train", "tiny-static", "--resume"), "no run to resume"),
        (("train", "tiny-static", "--resume", "--epochs", "3", "--out", folder), "epochs=3 (was 1)"),
        (("train", "tiny-static", "--device", "cuda:64"), "asks for GPU 64"),
        (("train", "tiny-static", "--device", "gpu"), "must be 'cpu', 'cuda'"),
        (("train", "tiny-static", "--set", "batch_size=1500"), "only 1438 training images"),
        (("train", "tiny-static", "--accept-changes"), "belongs to --resume"),
        (("train", "tiny-static", "--resume", "--out", tmp_path / "x"), "the folder of a run"),
        (("evaluate", tmp_path), "the folder of a run"),
        (("evaluate", folder, "--backend", "spars"), "unknown backend"),
        (("inspect", tmp_path / "x"), "neither a run nor a file"),
        (("export", folder, "--format", "pdf", "--out", "w.pdf"), "unknown format 'pdf'"),
        (("export", folder, "--format", "json", "--out", "no/such/w.json"), "does not exist"),
        (("nonsense",), "No such command"),
    ]
    for arguments, message in cases:
        assert message in error(*arguments), arguments
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cifar.tar.gz", "one"]


def test_failing_files_are_reported(run, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", "secret.npz")

    monkeypatch.setattr("neuralgraph.training.run.load", refuse)
    assert "Permission denied: 'secret.npz'" in error("evaluate", run[0])


COMMAND = [sys.executable, "-c", "from neuralgraph.cli import main; main()"]


def test_help_does_not_import_torch():
    code = ("import sys; from neuralgraph.cli import main\n"
            "try: main(['train', '--help'])\n"
            "except SystemExit: pass\n"
            "assert not {'torch', 'dgl', 'numpy', 'networkx'} & set(sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "Usage:" in done.stdout, done.stderr


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    process = subprocess.Popen(
        [*COMMAND, "train", "tiny-static", "--epochs", "50", "--out", "run", "--set", "k=500"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert "tiny-static on digits" in process.stdout.readline()
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "everything is saved" in errors and "Traceback" not in errors
    assert "neuralgraph train tiny-static --resume --out run" in errors
    from neuralgraph.training import Run

    progress = Run.open(tmp_path / "run").progress
    assert progress.epoch > 0 or progress.step > 0


def test_benchmark_shows_every_way_beside_multiply_adds(run, tmp_path):
    folder, _ = run
    result = call("benchmark", folder, "--batch", "2", "--rounds", "2", "--save", tmp_path / "fast.ng")
    assert result.exit_code == 0, result.output
    table = [line.split() for line in result.output.splitlines()]
    rows = {row[0]: row for row in table if row and row[0] in ("dense", "dgl", "sparse", "auto", "compiled")}
    assert rows.keys() == {*available(), "compiled"}
    assert all(float(row[-1]) < 1e-4 for row in rows.values())  # the difference of outputs
    assert "multiply-adds per image" in result.output and "threads" in result.output
    images = torch.randn(2, 1, 8, 8)
    fast = neuralgraph.inference.load(tmp_path / "fast.ng")
    _, model, _ = open_model(folder)
    with torch.no_grad():
        torch.testing.assert_close(fast(images), model.eval()(images), rtol=1e-4, atol=1e-4)
    result = call("benchmark", folder, "--batch", "2", "--rounds", "2", "--storage", "bfloat16", "--save", tmp_path / "small.ng")
    (line,) = [line for line in result.output.splitlines() if line.startswith("compiled, bfloat16")]
    assert 1e-5 < float(line.split()[-1]) < 0.1
    assert neuralgraph.inference.load(tmp_path / "small.ng").network.storage == torch.bfloat16
    result = call("benchmark", folder, "--save", tmp_path / "no" / "fast.ng")
    assert result.exit_code == 2 and "does not exist" in result.output


def test_timings_are_medians_of_turns():
    from neuralgraph.analysis.speed import alternate
    order = []
    times = alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3, warm_up=1)
    assert order == ["a", "b"] * 4
    assert set(times) == {"a", "b"} and all(t.low <= t.median <= t.high for t in times.values())


def test_the_settings_of_a_recipe_are_listed():
    lines = call("recipes", "tiny-discrete").output.splitlines()
    assert any(re.match(r"steps +5? *.*\(an integer or none\) of a discrete-time model", line) for line in lines)
    assert any(re.match(r"selector\.per +graph +\(a word\) what the edges compete within", line) for line in lines)
    assert not any("always" in line.split("(")[0] for line in lines)
