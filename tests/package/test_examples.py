"""Every example runs and says what it promises; the README's Python runs too."""

import dataclasses
import re
import runpy
import sys

import pytest
import torch
from checkout import ROOT
from pages import run_page

import neuralgraph as ng
from neuralgraph.nodes import ACTIVATIONS, OPERATIONS
from neuralgraph.training import RECIPES

EXAMPLES = {  # name: (arguments, patterns of what it prints)
    "build_by_hand": ([], [r"\(4, 2, 12, 12\) -> output \(4, 1, 6, 6\)", "hallucinated"]),
    "lstm_as_a_graph": ([], ["largest difference from torch.nn.LSTM"]),
    "train_and_export": (["1"], ["test accuracy", "gives the same outputs"]),
    "study_a_wiring": (["10"], ["communities:", "longest path:", "dead nodes:"]),
    "regress_vectors": ([], ["with a discovered and", "edges from inputs that matter"]),
    "classify_signals": ([], ["test accuracy after 6 epochs: 9", "compiled, the outputs differ by", "as ONNX"]),
    "stream_sequences": ([], [r"after 600 pieces: (9\d|100)\.\d %", "fed step by step, the answers differ by"]),
    "from_a_connectome": ([], ["30 input, 120 hidden, 20 output", "learned: 9", "the busiest neuron"]),
    "randomly_wired": (["3"], [r"test accuracy after 3 epochs: 9", "began at 0.5", "compiled, the outputs differ by"]),
    "grow_a_network": ([], ["stuck at", "nodes split", "[2-9] times less"]),
    "prune_connections": (["3"], ["vgg: .* % fine-tuned", "DenseNet: .*the outputs are the same"]),
    "wirings_and_chance": (["--samples", "3"], ["300 of 325760 edges", r"blocks +bi-fans: .* z = ", r"small world: clustering \d"]),
    "own_operation": ([], ["has a gradient: True", "refused: nodes with 'sine'", "with a formula it is compiled"]),
}


def test_every_example_is_listed():
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.dgl] * (name == "build_by_hand")) for name in EXAMPLES])
def test_example(name, capsys, monkeypatch, tmp_path):
    arguments, promised = EXAMPLES[name]
    extra = [str(tmp_path)] if name in ("train_and_export", "regress_vectors", "classify_signals", "grow_a_network") else []
    threads, activations, operations = torch.get_num_threads(), dict(ACTIVATIONS), dict(OPERATIONS)
    monkeypatch.setattr(sys, "argv", [name, *arguments, *extra])
    monkeypatch.setitem(RECIPES, "tiny-static", dataclasses.replace(RECIPES["tiny-static"], epochs=3))
    torch.manual_seed(0)
    try:
        runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    finally:
        torch.set_num_threads(threads)
        restore(activations, operations)
    output = capsys.readouterr().out
    assert [pattern for pattern in promised if not re.search(pattern, output)] == []
    assert len((ROOT / "examples" / f"{name}.py").read_text().splitlines()) <= 120


def restore(activations, operations):
    """The registries without what an example added."""
    for family, before in ((ACTIVATIONS, activations), (OPERATIONS, operations)):
        family.clear()
        family.update(before)


def test_readme(tmp_path):
    assert run_page(ROOT / "README.md", tmp_path)["net"].num_real == 400


def test_lstm_graph_equals_torch(float64):
    """In double precision, on real sequences, to rounding; and so do the gradients of the input."""
    names = runpy.run_path(str(ROOT / "examples" / "lstm_as_a_graph.py"))
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(8, 5, batch_first=True)
    network = names["lstm_graph"](lstm)
    data = ng.data.load("digits")
    rows = data.normalise(data.test_images[:6])[:, 0].double()
    results = []
    for run in (lambda x: names["hidden_states"](network, x), lambda x: lstm(x)[0]):
        x = rows.clone().requires_grad_()
        y = run(x)
        y.square().sum().backward()
        results.append((y.detach(), x.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-10)
