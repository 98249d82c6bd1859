"""fit: any model, loss and data by the loop of the recipes; resumed trainings end as undisturbed ones."""

import json
import signal

import pytest
import torch
from click.testing import CliRunner
from stopping import StopAfter
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

import neuralgraph as ng
from neuralgraph.cli import main
from neuralgraph.errors import CheckpointError, InputError, RunError
from neuralgraph.training import Interrupted, Watcher, fit, history
from neuralgraph.training.checkpoint import read_checkpoint
from neuralgraph.training.log import read_metrics
from neuralgraph.training.report import compare, read_records

UNIT = ng.NodeFunction("bias activation", activation="tanh")


def adam(rate):
    return lambda parameters: torch.optim.Adam(parameters, lr=rate)


def vectors(count=60, features=3):
    x = torch.randn(count, features, 1, 1, generator=torch.Generator().manual_seed(0))
    return x, (x[:, :1] * x[:, 1:2]).clone()


class Noisy(nn.Module):
    """A neural graph with dropout before and a sparse layer behind it."""

    def __init__(self, selector="dnw", k=40):
        super().__init__()
        self.drop = nn.Dropout(0.2)
        self.net = ng.StaticNeuralGraph(ng.wirings.blocks([3, 8, 6], UNIT), ng.selectors.create(selector, k))
        self.head = ng.SparseLinear(6, 1, density=0.5)
        with torch.no_grad():
            self.head.weight.copy_(torch.linspace(-0.4, 0.5, 6)[None])
            self.head.bias.zero_()

    def forward(self, x):
        return self.head(self.net(self.drop(x)).flatten(1))[..., None, None]


def shuffled(batch=16):
    return DataLoader(TensorDataset(*vectors()), batch, shuffle=True)


def train(folder, model=None, loader=None, **options):
    model = model or Noisy()
    options = {"epochs": 3, "loss": mse_loss, "optimizer": adam(0.01), **options}
    return model, fit(model, loader or shuffled(), folder=folder, **options)


def timeless(rows):
    return [{name: value for name, value in row.items() if "second" not in name} for row in rows]


def test_one_step_is_the_written_formula(tmp_path):
    """L1-anneal's penalty is in the gradient, the schedule in the rate, and the selector is told."""
    def make():
        return ng.StaticNeuralGraph(ng.wirings.blocks([3, 8, 1], UNIT),
                                    ng.selectors.create("l1-anneal", 9, strength=0.1, every=1))

    model, twin, (x, y) = make(), make(), vectors()
    rows = fit(model, [(x, y)], folder=tmp_path / "a", epochs=2, loss=mse_loss, schedule="cosine",
               optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.5))
    for step, factor in enumerate((0.5, 0.0)):
        loss = mse_loss(twin(x), y)
        twin.zero_grad()
        (loss + 0.1 * twin.weight[twin.selector.mask].abs().sum()).backward()
        assert rows[step]["train_loss"] == pytest.approx(loss.item(), rel=1e-6)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter -= 0.5 * factor * parameter.grad
        twin.selector.advance(step + 1, 2, twin.weight)
    for (name, value), expected in zip(model.state_dict().items(), twin.state_dict().values()):
        torch.testing.assert_close(value, expected, msg=name)
    assert model.selector.num_real == 9 and not model.training


@pytest.mark.parametrize("steps", [1, 4, 6])
@pytest.mark.parametrize("selector", ["dnw", "targeted-dropout", "l1-anneal", "rigl", "feather", "edge-popup", "snfs", "chts", "snip"])
def test_resumed_equals_undisturbed(tmp_path, selector, steps):
    """Shuffling and dropout from the global generator, Adam's moments, the selector's draws."""
    options = {"test": list(zip(*[part.split(30) for part in vectors()]))}
    whole, state = Noisy(selector), torch.get_rng_state()
    _, rows = train(tmp_path / "whole", whole, **options)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(Interrupted, match="everything is saved"):
        train(tmp_path / "parts", Noisy(selector), watcher=StopAfter(steps), **options)
    torch.rand(3)
    model, resumed = train(tmp_path / "parts", Noisy(selector), resume=True, **options)
    assert timeless(resumed) == timeless(rows)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), whole.state_dict().values()))
    first, second = (read_checkpoint(tmp_path / name / "checkpoint.safetensors")[0] for name in ("whole", "parts"))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    _, other = train(tmp_path / "other", Noisy(selector), seed=1, **options)
    assert timeless(other) != timeless(rows)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_save_too(tmp_path, number):
    with pytest.raises(Interrupted):
        train(tmp_path, watcher=StopAfter(2, number))
    assert read_checkpoint(tmp_path / "checkpoint.safetensors")[1]["progress"]["step"] == 2


def test_the_folder_holds_what_happened(tmp_path):
    x, y = vectors()
    model, rows = train(tmp_path / "run", metrics={"off": lambda out, target: (out - target).abs().mean()},
                        test=lambda epoch: [(x[:10], y[:10]), (x[10:12], y[10:12])], loader=shuffled(60))
    assert read_metrics(tmp_path / "run") == rows
    with torch.no_grad():
        out = model(x[:12])
    assert rows[-1]["test_off"] == pytest.approx((out - y[:12]).abs().mean().item(), rel=1e-5)
    assert rows[-1]["test_loss"] == pytest.approx(mse_loss(out, y[:12]).item(), rel=1e-5)
    found = history(tmp_path / "run")
    ends = [found.steps[-1] * epoch // 3 for epoch in range(4)]
    masks = [[found.at(step, part).real for part in (0, 1)] for step in ends]
    net, layer = masks[-1]
    weight, kept = model.net.weight.detach()[net], model.head.weight.detach().flatten()[layer]
    assert torch.equal(net, model.net.selection().real) and torch.equal(layer, model.head.real().flatten())
    assert set(ends) <= set(found.steps) and torch.allclose(found.at().weight[net], weight, rtol=2**-11)
    for before, after, row in zip(masks, masks[1:], rows):
        assert row["swapped_edges"] == sum(int((new & ~old).sum()) for old, new in zip(before, after))
    assert rows[-1]["threshold"] == min(weight.abs().min(), kept.abs().min())
    line, = compare(read_records([tmp_path / "run"]))
    assert (line["epochs"], line["best"], line["k"]) == ("3/3", None, 43)
    assert line["loss"] == rows[-1]["test_loss"]
    shown = CliRunner().invoke(main, ["report", str(tmp_path / "run"), "--out", str(tmp_path / "png")])
    assert shown.exit_code == 0 and "run: trained by neuralgraph.training.fit" in shown.output
    assert [path.name for path in (tmp_path / "png").iterdir()] == ["run-rewiring.png"]


def test_what_stands_in_a_folder_must_be_this_training(tmp_path):
    train(tmp_path / "run", epochs=1)
    with pytest.raises(RunError, match="holds another run: continue"):
        train(tmp_path / "run", epochs=1)
    with pytest.raises(RunError, match=r"epochs=2 \(was 1\).*accept_changes"):
        train(tmp_path / "run", epochs=2, resume=True)
    with pytest.raises(RunError, match="training of a Noisy, not of a Linear"):
        train(tmp_path / "run", nn.Linear(3, 1), epochs=1, resume=True)
    bigger = Noisy()
    bigger.head = ng.SparseLinear(6, 2, density=0.5)
    with pytest.raises(CheckpointError, match="does not fit.*head.weight"):
        train(tmp_path / "run", bigger, epochs=1, resume=True)
    assert "changes" not in json.loads((tmp_path / "run" / "recipe.json").read_text())
    _, rows = train(tmp_path / "run", epochs=2, resume=True, accept_changes=True)
    assert len(rows) == 2
    content = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert content["fit"]["epochs"] == 2 and content["changes"][0]["from"] == {"epochs": 1}
    assert len(train(tmp_path / "run", epochs=2, resume=True)[1]) == 2
    with pytest.raises(CheckpointError, match="neuralgraph.training.fit and holds no recipe"):
        ng.training.open_model(tmp_path / "run")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "precious").write_text("")
    with pytest.raises(RunError, match="not empty"):
        train(tmp_path / "x", resume=True)
    result = CliRunner().invoke(main, ["evaluate", str(tmp_path / "run")])
    assert result.exit_code == 2 and "resume=True" in result.stderr


def test_a_recipes_run_is_not_continued_by_fit(tmp_path):
    (tmp_path / "recipe.json").write_text('{"recipe": {}}')
    with pytest.raises(RunError, match="neuralgraph train --resume"):
        train(tmp_path, resume=True)


X, Y = vectors()
CLASSES = torch.arange(60) % 4


@pytest.mark.parametrize("options, message", [
    ({"loader": []}, "loader is empty"), ({"loader": iter([(X, Y)])}, "used up after one epoch"),
    ({"loader": 3}, "loader must give batches"), ({"loader": X}, "loader must give batches"),
    ({"loader": [X]}, "pair .x, target., got Tensor"), ({"loader": [(X, Y, Y)]}, "got tuple of 3"),
    ({"loader": [("a", "b")]}, "first dimension is its number of samples"),
    ({"loader": lambda epoch: iter([(X, Y)])}, "no length: give steps_per_epoch"),
    ({"loader": lambda epoch: [(X, Y)] * (1 + epoch)}, "gave more than the 1 batches"),
    ({"loader": lambda epoch: [(X, Y)] * (2 - epoch)}, "gave 1 batches in epoch 2 instead of 2"),
    ({"loader": [(X, Y)], "steps_per_epoch": 0}, "steps_per_epoch must be an integer of at least 1"),
    ({"loss": lambda out, target: (out - target)**2}, r"one number, .* got shape \(60, 1, 1, 1\)"),
    ({"loss": lambda out, target: 3.0}, "one number.*got float"),
    ({"loss": lambda out, target: target.mean()}, "does not depend on the model's parameters"),
    ({"loss": "mse"}, "loss must be a function"), ({"metrics": {"a b": mse_loss}}, "a word other than 'loss'"),
    ({"metrics": {"loss": mse_loss}}, "a word other than 'loss'"), ({"metrics": [mse_loss]}, "must be a dict"),
    ({"metrics": {"off": lambda out, target: out}}, "metric 'off' must return one number"),
    ({"test": []}, "test gave no batch"), ({"model": 3}, "expected a torch.nn.Module"),
    ({"epochs": -1}, "epochs must be an integer of at least 0"), ({"epochs": 1.5}, "epochs must be an integer"),
    ({"optimizer": torch.optim.SGD([nn.Parameter(X)], lr=1)}, "must be functions"),
    ({"optimizer": lambda p: None}, "must return a torch.optim.Optimizer"),
    ({"optimizer": lambda p: torch.optim.SGD([nn.Parameter(X)], lr=1)}, "not the model's"),
    ({"optimizer": torch.optim.LBFGS}, "needs a closure"), ({"schedule": "cosin"}, "did you mean 'cosine'"),
    ({"device": "gpu"}, "device must be"),
])
def test_bad_arguments(tmp_path, options, message):
    options = {"model": Noisy(), "loader": [(X, Y)], "epochs": 2, "loss": mse_loss, **options}
    with pytest.raises((InputError, ng.errors.UnknownNameError), match=message):
        fit(options.pop("model"), options.pop("loader"), folder=tmp_path / "run", **options)


def test_one_writer_and_no_stale_one(tmp_path):
    class Second(Watcher):
        def finished_epoch(self, run, row):
            with pytest.raises(RunError, match="trained by another process"):
                train(tmp_path / "run", resume=True)

    train(tmp_path / "run", watcher=Second())


def accuracy(output, target):
    return (output.argmax(1) == target).double().mean()


class Sequences(nn.Module):
    """The states of a graph over time, the last of which is classified."""

    def __init__(self):
        super().__init__()
        self.net = ng.DiscreteTimeNeuralGraph(ng.wirings.complete(12, inputs=2, outputs=4, function=UNIT),
                                              ng.TopK(k=100), steps=None)

    def forward(self, x):
        return self.net(x[..., None, None]).flatten(1)


class Signals(nn.Module):
    """A graph of convolutions along time; the mean of its outputs is classified."""

    def __init__(self):
        super().__init__()
        self.net = ng.StaticNeuralGraph(ng.wirings.blocks([1, 8, 4]), ng.TopK(k=30))

    def forward(self, x):
        return self.net(x[:, :, None]).mean((2, 3))


def waves(count=120, length=16):
    """Sines of four frequencies at random phases."""
    draw = torch.Generator().manual_seed(0)
    label = torch.arange(count) % 4
    time = torch.arange(length) / length * 2 * torch.pi
    return torch.sin((1 + label[:, None]) * time + 6.3 * torch.rand(count, 1, generator=draw)), label


def test_signals_are_classified(tmp_path):
    x, label = waves()
    loader = DataLoader(TensorDataset(x[:, None], label), 20, shuffle=True)
    rows = fit(Signals(), loader, folder=tmp_path, epochs=12, loss=cross_entropy, metrics={"accuracy": accuracy},
               optimizer=adam(0.05))
    assert rows[-1]["train_accuracy"] > 0.6 > rows[0]["train_accuracy"]


def test_sequences_are_learned(tmp_path):
    """Whether the first of six steps was above zero, asked after the last."""
    x = torch.randn(96, 6, 2, generator=torch.Generator().manual_seed(1))
    x[:, 1:, 0] *= 0.1
    label = (x[:, 0, 0] > 0).long()
    rows = fit(Sequences(), list(zip(x.split(24), label.split(24))), folder=tmp_path, epochs=20,
               loss=cross_entropy, metrics={"accuracy": accuracy}, optimizer=adam(0.03))
    assert rows[-1]["train_accuracy"] > 0.9


def test_any_nesting_of_batches(tmp_path):
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = ng.SparseLinear(3, 1, density=1.0)

        def forward(self, x):
            return self.layer(x["a"] + x["b"][0])

    x = X.flatten(1)
    rows = fit(Pair(), [({"a": x, "b": [x]}, (Y.flatten(1), "ignored"))], folder=tmp_path, epochs=2,
               loss=lambda out, target: mse_loss(out, target[0]))
    assert rows[1]["train_loss"] != rows[0]["train_loss"] and "dead_nodes" not in rows[0]


def test_without_a_graph_it_trains_too(tmp_path):
    """The dense layer to compare with."""
    rows = fit(nn.Linear(3, 1), [(X.flatten(1), Y.flatten(1))], folder=tmp_path, epochs=2, loss=mse_loss)
    assert rows[0].keys() == {"epoch", "train_loss", "samples_per_second", "seconds"}
    assert compare(read_records([tmp_path]))[0]["k"] == 0 and not (tmp_path / "wiring.history").exists()
