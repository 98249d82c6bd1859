"""Numbers from the authors' code, in double precision, on every backend."""

import json

import pytest
import torch
from checkout import GOLDEN, needs_golden
from safetensors import safe_open

import neuralgraph as ng
from neuralgraph.backends import BACKENDS
from neuralgraph.compat.dnw import _load_stage, _State
from neuralgraph.models.mobilenet import NODE, MobileNetStage

pytestmark = needs_golden


def read(name):
    """(meta, parts) with parts["state"], ["grad"], ... as in the file."""
    parts = {}
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        meta = json.loads(file.metadata()["meta"])
        for key in file.keys():
            head, _, rest = key.partition(".")
            if rest:
                parts.setdefault(head, {})[rest] = file.get_tensor(key)
            else:
                parts[head] = file.get_tensor(key)
    return meta, parts


def close(actual, expected, tolerance):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def run(model, golden, tolerance):
    """Outputs in training and evaluation mode and the gradient of the input."""
    x = golden["x"].clone().requires_grad_()
    model.train()
    y = model(x)
    (y * golden["cotangent"]).sum().backward()
    close(y.detach(), golden["y"], tolerance)
    close(x.grad, golden["grad"]["x"], tolerance)
    model.eval()
    close(model(golden["x"]).detach(), golden["y_eval"], tolerance)


def compare_edges(network, golden, prefix, first_row, tolerance):
    """Effective weights and the gradient of every candidate edge."""
    rows, columns = network.wiring.dst - first_row, network.wiring.src
    name = prefix.removesuffix(".")
    close(network.selection().weight.detach(), golden["effective"][name][rows, columns, 0, 0], 0)
    gradient = golden["grad"][prefix + "weight"][rows, columns, 0, 0]
    if prefix + "mask" in golden["state"]:
        gradient = gradient * network.selection().real
    close(network.weight.grad, gradient, tolerance)


def operations(network):
    """{name: [(nodes, parameter)]} of the learned values."""
    found = {}
    for group in network.functions.groups:
        for name, operation, attribute in group.learned():
            found.setdefault(name, []).append((group.nodes, getattr(operation, attribute)))
    return found


def gathered(network, name, gradient):
    """A learned value, or its gradient, of all nodes that have one, in node order."""
    pieces = operations(network)[name]
    nodes = torch.cat([nodes for nodes, _ in pieces])
    values = torch.cat([value.grad if gradient else value.detach() for _, value in pieces])
    return values[nodes.argsort()]


def compare_stage(network, golden, prefix, blocks, inputs, tolerance):
    compare_edges(network, golden, prefix + "graph.", inputs, tolerance)
    grad, after = golden["grad"], golden["after"]
    kernels = [grad[prefix + "downsample.0.weight"]]
    if prefix + "conv.weight" in grad:
        kernels.append(grad[prefix + "conv.weight"])
    close(gathered(network, "kernel", True), torch.cat(kernels), tolerance)
    for ours, theirs in (("norm_weight", "weight"), ("norm_bias", "bias")):
        expected = torch.cat([grad[f"{prefix}norm.{i}.{theirs}"] for i in range(blocks)])
        close(gathered(network, ours, True), expected, tolerance)
    for ours, theirs in (("norm_mean", "running_mean"), ("norm_var", "running_var")):
        expected = torch.cat([after[f"{prefix}norm.{i}.{theirs}"] for i in range(blocks)])
        close(gathered(network, ours, False), expected, tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["stage_random_graph", "stage_single_hidden_block", "stage_stride2"])
def test_stage(name, backend):
    meta, golden = read(name)
    b = meta["hidden_blocks"]
    stage = MobileNetStage(meta["in_channels"], meta["out_channels"], b, meta["stride"])
    k = stage.budget(meta["width"])
    wiring = ng.wirings.blocks(stage.sizes, NODE, input_stride=stage.stride)
    network = ng.StaticNeuralGraph(wiring, ng.TopK(k), backend=backend).double()
    _load_stage(network, _State(golden["state"]), "", stage)
    run(network, golden, 1e-9)
    compare_stage(network, golden, "", b, stage.inputs, 1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["mobilenet_like", "mobilenet_like_small"])
def test_mobilenet(name, backend):
    meta, golden = read(name)
    model = ng.load_dnw_checkpoint(golden["state"], width=meta["width"], small=meta["small"],
                                   image_size=meta["image_size"], backend=backend)
    run(model, golden, 1e-9)
    grad, after = golden["grad"], golden["after"]
    for i, (network, stage) in enumerate(zip(model.stages, meta["stages"])):
        compare_stage(network, golden, f"layers.{i}.", stage["hidden_blocks"], stage["in_channels"], 1e-9)
    close(model.stem.weight.grad, grad["conv1.weight"], 1e-9)
    close(model.head.norm.weight.grad, grad["bn.weight"], 1e-9)
    close(model.head.norm.bias.grad, grad["bn.bias"], 1e-9)
    close(model.head.norm.running_mean, after["bn.running_mean"], 1e-9)
    close(model.head.norm.running_var, after["bn.running_var"], 1e-9)
    if meta["small"]:
        compare_edges(model.head.edges, golden, "linear.graph.", 16, 1e-9)
    else:
        close(model.head.linear.weight.grad, grad["linear.weight"], 1e-9)
        close(model.head.linear.bias.grad, grad["linear.bias"], 1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name, tolerance", [("discrete", 1e-9), ("discrete_random_graph", 1e-9),
                                             ("continuous", 1e-6)])
def test_dynamic(name, tolerance, backend):
    meta, golden = read(name)
    model = ng.load_dnw_checkpoint(golden["state"], setting=meta["kind"], prune_rate=meta["prune_rate"],
                                   steps=meta["steps"], image_size=meta["image_size"], backend=backend)
    run(model, golden, tolerance)
    prefix = "" if meta["kind"] == "discrete" else "odesolve.odefunc."
    network, = model.networks
    compare_edges(network, golden, prefix + "graph.", 0, tolerance)
    grad, after = golden["grad"], golden["after"]
    close(gathered(network, "kernel", True), grad[prefix + "conv.weight"], tolerance)
    close(gathered(network, "norm_weight", True), grad[prefix + "norm.weight"], tolerance)
    close(gathered(network, "norm_bias", True), grad[prefix + "norm.bias"], tolerance)
    for layer in (0, 1, 3, 4, 5):
        for part in ("weight", "bias"):
            close(getattr(model.stem[layer], part).grad, grad[f"downsample.{layer}.{part}"], tolerance)
    for layer in (1, 5):
        for part in ("running_mean", "running_var"):
            close(getattr(model.stem[layer], part), after[f"downsample.{layer}.{part}"], tolerance)
    close(model.head[1].weight.grad, grad["fc.weight"], tolerance)
    close(model.head[1].bias.grad, grad["fc.bias"], tolerance)


def test_every_file_is_used():
    names = {path.stem for path in GOLDEN.glob("*.safetensors")}
    assert names == {"choose_top_edges", "stage_random_graph", "stage_single_hidden_block",
                     "stage_stride2", "mobilenet_like", "mobilenet_like_small", "discrete",
                     "discrete_random_graph", "continuous"}
