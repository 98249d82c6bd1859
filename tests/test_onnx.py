"""ONNX files: onnxruntime gives the same logits, for any batch."""

import dataclasses
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import neuralgraph as ng
from neuralgraph.cli import main
from neuralgraph.compat.onnx import export_onnx, to_onnx
from neuralgraph.errors import InputError, MissingPackageError
from neuralgraph.models import Classifier
from neuralgraph.models.mobilenet import Stage
from neuralgraph.models.tiny import GlobalPool
from neuralgraph.training import RECIPES, Run
from neuralgraph.wiring import ACTIVATIONS

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

SMALL_STAGES = (Stage(8, 16, 1, 1), Stage(16, 24, 2, 2), Stage(24, 32, 6, 2))


def session(path_or_bytes):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path_or_bytes, options, providers=["CPUExecutionProvider"])


def shaken(model):
    """Norms that have seen images, so that no scale is 1 and no mean 0."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith(("running_mean", "bias")):
                value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
            elif name.endswith("running_var") or "norm" in name:
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return model.eval()


def assert_same(model, proto):
    runtime = session(proto.SerializeToString())
    generator = torch.Generator().manual_seed(2)
    for batch in (1, 3):
        x = torch.randn(batch, model.in_channels, model.image_size, model.image_size, generator=generator)
        with torch.no_grad():
            expected = model(x)
        got, = runtime.run(["logits"], {"images": x.numpy()})
        np.testing.assert_allclose(got, expected.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name, options", [
    ("tiny-static", {}), ("tiny-static", {"image_size": 8, "in_channels": 1, "k": 300}),
    ("tiny-static", {"selector": "complete", "pool": "global"}),
    ("tiny-discrete", {}), ("tiny-discrete", {"image_size": 8, "steps": 2, "selector": "random"}),
    ("mobilenet-dnw", {"stages": SMALL_STAGES, "width": 0.5}),
    ("mobilenet-dnw-small", {"stages": SMALL_STAGES, "width": 0.5}),
    ("mobilenet-v1", {"width": 0.25})])
def test_onnxruntime_agrees(name, options):
    options = {"image_size": 32, "num_classes": 10, **options}
    model = shaken(ng.models.create(name, **options))
    assert_same(model, to_onnx(model))


def around(network, channels=3, side=8):
    return Classifier(nn.Sequential(), [network], GlobalPool(), in_channels=channels, image_size=side)


def test_any_acyclic_graph_agrees():
    """Outputs out of order, and nodes of unequal functions."""
    f = ng.NodeFunction
    wiring = ng.wirings.from_edges(
        [(0, 5), (1, 3), (3, 5), (1, 4), (0, 4), (4, 6), (2, 5)], inputs=[0, 1, 2], outputs=[5, 6],
        functions={0: f("bias activation conv", activation="tanh"),
                   1: f("norm activation conv", norm="instance", kernel_size=5),
                   2: f("conv", kernel_size=1), 3: f("conv", "norm activation", activation="sigmoid")})
    model = shaken(around(ng.StaticNeuralGraph(wiring, ng.TopK(k=5))))
    assert_same(model, to_onnx(model))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_agrees(activation):
    function = ng.NodeFunction("norm activation conv", activation=activation)
    model = shaken(around(ng.StaticNeuralGraph(ng.wirings.blocks([3, 4, 2], function), ng.TopK(k=15))))
    assert_same(model, to_onnx(model))


def test_a_cyclic_graph_with_held_inputs_agrees():
    wiring = ng.wirings.from_edges([(0, 2), (1, 2), (2, 3), (3, 2), (3, 4), (4, 4)], inputs=[0, 1],
                                   outputs=[2, 4],
                                   functions={3: ng.NodeFunction("bias activation", activation="tanh")})
    for tied in (True, False):
        model = shaken(around(ng.DiscreteTimeNeuralGraph(wiring, ng.TopK(k=5), steps=4, tied=tied), 2))
        assert_same(model, to_onnx(model))


def test_the_model_is_left_as_it_was():
    model = ng.models.create("tiny-static", image_size=8, k=300)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    to_onnx(model)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("model, message", [
    (lambda: ng.models.create("tiny-continuous", image_size=8), "solver chooses its steps"),
    (lambda: around(ng.StaticNeuralGraph(ng.wirings.from_edges(
        [(0, 2), (1, 2), (2, 3)], inputs=[0, 1], outputs=[3],
        functions={2: ng.NodeFunction("", aggregate="product")}), ng.Complete()), 2), "multiply"),
    (lambda: Classifier(nn.GELU(), [ng.StaticNeuralGraph(ng.wirings.chain([2, 2]), ng.Complete())],
                        GlobalPool(), in_channels=2, image_size=8), "no ONNX form of GELU")])
def test_what_cannot_be_exported_says_so(model, message):
    with pytest.raises(InputError, match=message):
        to_onnx(model())


def test_without_onnx_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'neuralgraph\[onnx\]'"):
        to_onnx(ng.models.create("tiny-static", image_size=8, k=300))


def test_the_command_exports_a_run(tmp_path):
    run = Run.create(dataclasses.replace(RECIPES["tiny-static"], epochs=0), tmp_path / "run")
    path = tmp_path / "model.onnx"
    result = CliRunner().invoke(main, ["export", str(run.folder), "--format", "onnx", "--out", str(path)])
    assert result.exit_code == 0, result.output
    x = run.data.normalise(run.data.test_images[:7])
    got, = session(str(path)).run(None, {"images": x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(got, run.model.eval()(x).numpy(), rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="cannot write"):
        export_onnx(run.model, tmp_path)
