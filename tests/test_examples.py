"""Every example runs and says what it promises; the README's Python runs too."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

import neuralgraph as ng

ROOT = Path(__file__).parents[1]
EXAMPLES = {
    "build_by_hand": ([], ["(4, 2, 12, 12) -> output (4, 1, 6, 6)", "hallucinated"]),
    "lstm_as_a_graph": ([], ["largest difference from torch.nn.LSTM"]),
    "train_and_export": (["1"], ["test accuracy", "gives the same outputs"]),
    "study_a_wiring": (["10"], ["communities:", "longest path:", "dead nodes:"]),
}


def test_every_example_is_listed():
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name, capsys, monkeypatch, tmp_path):
    arguments, promised = EXAMPLES[name]
    extra = [str(tmp_path)] if name == "train_and_export" else []
    monkeypatch.setattr(sys, "argv", [name, *arguments, *extra])
    torch.manual_seed(0)
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    output = capsys.readouterr().out
    assert all(text in output for text in promised)
    assert len((ROOT / "examples" / f"{name}.py").read_text().splitlines()) <= 120


def test_readme_python(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 2
    names = {}
    for block in blocks:
        exec(block, names)
    assert names["net"].wiring.num_nodes == 5


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
