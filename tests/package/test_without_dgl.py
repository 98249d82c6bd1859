"""Where DGL is not installed all works but what hands out or takes its graphs, which says so."""

import os
import subprocess
import sys

from checkout import ROOT

BLOCKED = """
import sys
from importlib import metadata

def version(name, of=metadata.version):
    if name == "dgl":
        raise metadata.PackageNotFoundError(name)
    return of(name)

sys.modules["dgl"], metadata.version = None, version
import torch
import neuralgraph as ng
from neuralgraph.errors import MissingPackageError

def refused(call, what):
    try:
        call()
    except MissingPackageError as error:
        assert str(error).startswith(f"{what} needs DGL, which is not installed: pip install 'dgl>="), error
        assert isinstance(error, ImportError)
    else:
        raise AssertionError(f"{what} is there")
"""


def blocked(code, folder):
    """Runs the code without DGL."""
    done = subprocess.run([sys.executable, "-c", BLOCKED + code], cwd=folder, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-2000:]


def test_four_things_need_it_and_say_so(tmp_path):
    blocked("""
wiring = ng.wirings.blocks([3, 6, 2])
net = ng.StaticNeuralGraph(wiring, ng.TopK(20))
refused(lambda: wiring.graph, "the DGL graph of a wiring or network")
refused(lambda: net.graph, "the DGL graph of a wiring or network")
refused(lambda: ng.Wiring(object()), "a wiring of a dgl.DGLGraph")
refused(lambda: ng.StaticNeuralGraph(wiring, ng.TopK(20), backend="dgl"), "the backend 'dgl'")
refused(lambda: setattr(net, "backend", "dgl"), "the backend 'dgl'")
refused(lambda: __import__("neuralgraph._dgl", fromlist=["dgl"]).dgl, "neuralgraph._dgl.dgl")
assert ng.backends.available() == ["dense", "sparse", "auto"]
assert ng.Wiring(wiring.data) == wiring
x = torch.randn(2, 3, 5, 5)
torch.testing.assert_close(torch.jit.trace(net.eval(), x)(x), net(x))  # which looks at everything that dir names
""", tmp_path)


def test_everything_else_works(tmp_path):
    """Built, trained, saved, opened again, exported, compiled, grown, explored and asked on the command line."""
    blocked("""
import dataclasses
from neuralgraph.training import RECIPES, Run, open_model

images = ng.data.load("digits")
images = dataclasses.replace(images, train_images=images.train_images[:80], train_labels=images.train_labels[:80],
                             test_images=images.test_images[:20], test_labels=images.test_labels[:20])
run = Run.create(dataclasses.replace(RECIPES["tiny-static"], epochs=1, batch_size=40, k=300), "run", images)
run.train()
model = open_model("run")[1].eval()
x = images.test_images[:4].float() / 255
with torch.no_grad():
    y = model(x)
    assert torch.equal(y, run.model.eval()(x))
    torch.testing.assert_close(ng.compile(model)(x), y, rtol=1e-4, atol=1e-4)
network = model.networks[0]
for backend in ng.backends.available():
    network.backend = backend
    with torch.no_grad():
        torch.testing.assert_close(model(x), y, rtol=1e-4, atol=1e-4)
small = network.learned_wiring()
for name in ("w.graphml", "w.json", "w.gexf"):
    assert ng.read(ng.write(small, name)).num_edges == small.num_edges
assert ng.from_networkx(ng.to_networkx(small)).num_edges == small.num_edges
net = ng.StaticNeuralGraph(ng.wirings.blocks([2, 4, 4, 2]), ng.TopK(20), dtype=torch.float64)
batch = torch.randn(4, 2, 5, 5, dtype=torch.float64), torch.zeros(4, 2, 5, 5, dtype=torch.float64)
grown, report = ng.growing.split(net, [batch], torch.nn.functional.mse_loss, 0.4)
assert report.split

from click.testing import CliRunner
from neuralgraph.cli import main

def said(*words):
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    return result.output

assert "backend dgl         not tried: the backend 'dgl' needs DGL" in (found := said("doctor"))
assert "all that is installed works" in found
assert "300" in said("inspect", "run")
said("export", "run", "--format", "graphml", "--out", "run.graphml")
said("explore", "run", "--out", "run.html")
timed = said("benchmark", "run", "--batch", "2", "--rounds", "2").splitlines()
assert any(line.startswith("sparse ") for line in timed) and not any(line.startswith("dgl ") for line in timed)
""", tmp_path)
    assert (tmp_path / "run.graphml").stat().st_size > 1000 and (tmp_path / "run.html").stat().st_size > 10_000


def test_what_is_there_and_does_not_load_says_why(tmp_path):
    """A package of that name that a library of the system is missing for."""
    (tmp_path / "dgl").mkdir()
    (tmp_path / "dgl" / "__init__.py").write_text("raise OSError('libgomp.so.1: cannot open shared object file')")
    code = ("import sys; sys.path.insert(0, '.'); import neuralgraph as ng\n"
            "try: ng.wirings.blocks([2, 2]).graph\n"
            "except ng.errors.MissingPackageError as error: print(error)")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert "which cannot be imported (OSError: libgomp.so.1: cannot open" in done.stdout, done.stderr
    assert "system library libgomp1" in done.stdout
