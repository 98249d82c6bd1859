"""ONNX files: onnxruntime gives the same logits, for any batch."""

import dataclasses
import json
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from graphs import random_dag
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn.utils import prune

import neuralgraph as ng
from neuralgraph.cli import main
from neuralgraph.errors import InputError, MissingPackageError
from neuralgraph.export import export_onnx, to_onnx
from neuralgraph.models import Classifier
from neuralgraph.models.mobilenet import MobileNetStage
from neuralgraph.models.tiny import GlobalPool
from neuralgraph.training import RECIPES, Run
from neuralgraph.wiring import ACTIVATIONS

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

SMALL_STAGES = (MobileNetStage(8, 16, 1, 1), MobileNetStage(16, 24, 2, 2), MobileNetStage(24, 32, 6, 2))


LAYERS = [
    nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.Conv2d(3, 4, 3, padding=2, padding_mode="replicate"),
    nn.Conv2d(3, 4, 3, padding="same", dilation=2), nn.Conv2d(3, 4, (2, 4), padding="same"),
    nn.Conv2d(3, 4, (3, 1), stride=(1, 2), padding=(1, 0), bias=False), nn.Conv2d(3, 6, 3, groups=3, padding="valid"),
    ng.SparseConv2d(3, 4, 3, density=0.3), nn.BatchNorm2d(3, affine=False, eps=0.1), nn.BatchNorm2d(3),
    nn.InstanceNorm2d(3), nn.InstanceNorm2d(3, affine=True, eps=0.01), nn.Linear(8, 5), nn.Linear(8, 5, bias=False),
    ng.SparseLinear(8, 5, density=0.4), nn.AdaptiveAvgPool2d((2, 4)), nn.AdaptiveAvgPool2d((None, 4)),
    nn.AvgPool2d(3, stride=2, padding=1), nn.AvgPool2d(3, padding=1, count_include_pad=False),
    nn.MaxPool2d((2, 3), stride=1, dilation=2, padding=(1, 1)), nn.LeakyReLU(0.3), nn.ELU(0.7), nn.GELU(), nn.SiLU(),
    nn.PReLU(3, init=0.4), nn.Softplus(), nn.Hardswish(), nn.Sigmoid(), nn.Tanh(), nn.Softmax(1), nn.LogSoftmax(-1),
    nn.Dropout(), nn.Dropout2d(), nn.Identity(), nn.Sequential(nn.Sequential(), nn.ReLU())]


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
    ("mobilenet-v1", {"width": 0.25}), ("tiny-convnet", {"k": 2000}), ("tiny-convnet", {"selector": "complete"})])
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
    (lambda: ng.models.create("tiny-continuous", image_size=8), "not known before it runs"),
    (lambda: Classifier(nn.Mish(), [ng.StaticNeuralGraph(ng.wirings.chain([2, 2]), ng.Complete())],
                        GlobalPool(), in_channels=2, image_size=8), "no ONNX form of Mish")])
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


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_layers_with_all_their_settings(layer):
    """Before a graph and after it, where the maps are 8 pixels wide."""
    inputs = layer.eval()(torch.zeros(1, 3, 8, 8)).shape[1]
    network = ng.StaticNeuralGraph(ng.wirings.chain([inputs, 3]), ng.TopK(2 * inputs))
    for stem, head in ((layer, GlobalPool()), (nn.Conv2d(3, inputs, 1), nn.Sequential(layer, nn.Flatten()))):
        model = Classifier(stem, [network], head, in_channels=3, image_size=8)
        assert_same(shaken(model), to_onnx(model))


@pytest.mark.parametrize("head", [nn.Flatten(2), nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 5)),
                                  nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(-3, -2))], ids=repr)
def test_flattening(head):
    model = Classifier(nn.Identity(), [ng.StaticNeuralGraph(ng.wirings.chain([2, 3]), ng.TopK(4))], head,
                       in_channels=2, image_size=8)
    assert_same(shaken(model), to_onnx(model))


def hooked(register):
    model = around(ng.StaticNeuralGraph(ng.wirings.chain([2, 3]), ng.TopK(4)), 2)
    register(model)
    return model


class Doubling(ng.StaticNeuralGraph):
    def forward(self, x):
        return 2 * super().forward(x)


SPECIAL = [
    lambda: hooked(lambda m: m.stages[0].register_forward_hook(lambda module, args, y: 2 * y)),
    lambda: hooked(lambda m: m.stages[0].register_forward_pre_hook(lambda module, args: (2 * args[0],))),
    lambda: hooked(lambda m: m.stages[0].functions.groups[0].send[0].register_forward_hook(
        lambda module, args, y: 2 * y)),
    lambda: hooked(lambda m: m.register_forward_hook(lambda module, args, y: 2 * y)),
    lambda: hooked(lambda m: nn.utils.parametrize.register_parametrization(m.stages[0], "weight", nn.Tanh())),
    lambda: hooked(lambda m: setattr(m.stages[0], "forward", lambda x: 2 * x)),
    lambda: around(Doubling(ng.wirings.chain([2, 3]), ng.TopK(4)), 2)]


@pytest.mark.parametrize("make", SPECIAL)
def test_what_does_more_than_its_type_says_is_refused(make):
    for convert in (to_onnx, ng.compile, lambda model: ng.compile(nn.Sequential(model, nn.Identity()))):
        if convert is to_onnx or convert is ng.compile or not make()._forward_hooks:
            with pytest.raises(InputError, match="cannot compile or export .* because of"):
                convert(make())


def test_a_subclass_that_only_says_how_it_is_made_is_not():
    class Small(ng.StaticNeuralGraph):
        """Three nodes."""

        def __init__(self):
            super().__init__(ng.wirings.chain([2, 1]), ng.TopK(2))

    net = Small().eval()
    x = torch.randn(1, 2, 5, 5)
    torch.testing.assert_close(ng.compile(net)(x), net(x).detach())


@pytest.mark.parametrize("layer, message", [
    (nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), "Conv2d with padding_mode='circular'"),
    (nn.BatchNorm2d(2, track_running_stats=False), "track_running_stats=False"),
    (nn.AdaptiveAvgPool2d(3), "do not divide"), (nn.MaxPool2d(3, ceil_mode=True), "ceil_mode=True"),
    (nn.GELU("tanh"), "approximate='tanh'"), (nn.Softplus(beta=2), "beta=2"),
    (nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 2, 1)), "parametrizations"),
    (prune.l1_unstructured(nn.Conv2d(2, 2, 1), "weight", 2), "hooks")])
def test_layers_that_onnx_cannot_say_are_named(tmp_path, layer, message):
    model = Classifier(layer, [ng.StaticNeuralGraph(ng.wirings.chain([2, 3]), ng.TopK(4))], GlobalPool(),
                       in_channels=2, image_size=8)
    with pytest.raises(InputError, match=message):
        export_onnx(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("space", [(), (11,), (6, 5), (5, 4, 6)])
@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.0, 0.2, 0.5, 1.0]), batch=st.integers(1, 3))
@settings(max_examples=15)
def test_random_graphs_agree(space, seed, share, batch):
    """Bare networks: products (also without real edges), constants, strides, mixed functions."""
    wiring = random_dag(seed, dims=len(space))
    network = shaken(ng.StaticNeuralGraph(wiring, ng.TopK(round(share * wiring.num_edges)), seed=seed,
                                          dims=len(space)))
    proto = to_onnx(network, space=space)
    x = torch.randn(batch, len(wiring.inputs), *space, generator=torch.Generator().manual_seed(seed))
    got, = session(proto.SerializeToString()).run(["y"], {"x": x.numpy()})
    with torch.no_grad():
        expected = network(x)
    scale = max(1.0, expected.abs().max().item())
    np.testing.assert_allclose(got, expected.numpy(), rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("space", [(9,), (8, 7), (4, 5, 6)])
def test_strides_that_are_padded_back(space):
    function = ng.NodeFunction("activation conv", "norm", norm="instance", stride=2, zero_pad=True)
    network = shaken(ng.DiscreteTimeNeuralGraph(ng.wirings.complete(8, inputs=2, outputs=3, function=function),
                                                ng.TopK(30), steps=3, dims=len(space)))
    x = torch.randn(2, 2, *space)
    got, = session(to_onnx(network, space=space).SerializeToString()).run(None, {"x": x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(got, network(x).numpy(), rtol=1e-3, atol=1e-4)


def test_a_bare_network_needs_a_size():
    network = ng.StaticNeuralGraph(ng.wirings.chain([2, 3]), ng.TopK(4))
    for space in (None, (5,), (5, 0), (5, 5.0), 7):
        with pytest.raises(InputError, match="give space as 2 sides"):
            to_onnx(network, space=space)
    with pytest.raises(InputError, match="leave space out"):
        to_onnx(around(network, 2), space=(8, 8))
    with pytest.raises(InputError, match="expected a classifier"):
        to_onnx(nn.Linear(2, 2))


def test_modes_of_all_parts_are_left_alone():
    model = around(ng.StaticNeuralGraph(ng.wirings.chain([2, 3]), ng.TopK(4)), 2)
    model.train()
    model.stem.eval()
    to_onnx(model)
    assert model.training and not model.stem.training and model.stages[0].training


def test_what_a_trained_model_knows_of_its_images(tmp_path):
    """Mean, std and classes in the metadata; with normalise=True the file takes bytes."""
    model = shaken(ng.models.create("tiny-static", image_size=8, in_channels=1, k=300))
    with pytest.raises(InputError, match="knows how its images are normalised"):
        to_onnx(model, normalise=True)
    model.preprocessing = ng.models.Preprocessing(
        mean=(0.3,), std=(0.2,), classes=tuple("abcdefghij"), image_size=8, channels=1)
    images = torch.randint(256, (3, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(model.preprocessing(images)).numpy()
    for normalise in (False, True):
        export_onnx(model, tmp_path / "model.onnx", normalise=normalise)
        runtime = session(str(tmp_path / "model.onnx"))
        known = json.loads(runtime.get_modelmeta().custom_metadata_map["neuralgraph"])
        assert ng.models.Preprocessing.from_json(known) == model.preprocessing
        x = images if normalise else model.preprocessing(images)
        np.testing.assert_allclose(runtime.run(None, {"images": x.numpy()})[0], expected, rtol=1e-4, atol=1e-4)
    ng.compile(model).save(tmp_path / "model.ng")
    assert ng.inference.load(tmp_path / "model.ng").preprocessing == model.preprocessing
