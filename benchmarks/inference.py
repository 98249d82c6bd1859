"""A trained model in use: message passing, masked dense, sparse, compiled, and dense nets in onnxruntime.

    python benchmarks/inference.py [--authors CHECKOUT] [--cases CASE...] [--backends BACKEND...] [--storage NAME...]
        [--json FILE]

Weights are random; at 224 pixels half of the nodes are made dead, as the paper finds in trained networks,
by giving no edge to half of each block. MobileNetV1 has about the multiply-adds of MobileNetV1-DNW x0.225
at x0.25 and about its accuracy at x0.5. With --storage compiled models keep maps in 16 bits, too.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from common import alternate, authors_model, report, save
from torch import nn

import neuralgraph as ng

SHARED = {"per": "group", "group": 16}  # sixteen nodes in a row have the same parents
CASES = {  # name: model, options, pixels, classes, batch
    "tiny-static": ("tiny-static", {}, 32, 10, 128),
    "tiny-discrete": ("tiny-discrete", {}, 32, 10, 128),
    "mobilenet-32": ("mobilenet-dnw", dict(width=0.225), 32, 10, 64),
    "mobilenet-32-shared": ("mobilenet-dnw", dict(width=0.225, selector_options=SHARED), 32, 10, 64),
    "mobilenet-224": ("mobilenet-dnw", dict(width=0.225), 224, 1000, 1),
    "mobilenet-224-shared": ("mobilenet-dnw", dict(width=0.225, selector_options=SHARED), 224, 1000, 1),
    "mobilenet-224-batch-8": ("mobilenet-dnw", dict(width=0.225), 224, 1000, 8),
    "mobilenet-224-batch-8-shared": ("mobilenet-dnw", dict(width=0.225, selector_options=SHARED), 224, 1000, 8),
}


class MobileNetV1(nn.Sequential):
    """The hand-made network, of ordinary layers (Howard et al., 2017)."""

    def __init__(self, width, pixels, classes):
        def block(inputs, outputs, kernel, stride, groups=1):
            return [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
                    nn.BatchNorm2d(outputs), nn.ReLU()]
        channels = [int(width * c) for c in (32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024)]
        strides = [1, 2, 1, 2, 1, 2, *[1] * 5, 2, 1]
        layers = block(3, channels[0], 3, 1 if pixels <= 64 else 2)
        for inputs, outputs, stride in zip(channels, channels[1:], strides):
            layers += block(inputs, inputs, 3, stride, inputs) + block(inputs, outputs, 1, 1)
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], classes))


def in_onnxruntime(model, images):
    """A function that runs the model in onnxruntime on as many threads as torch has."""
    import onnxruntime
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(model.eval(), (images,), str(path), dynamo=False, input_names=["x"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(path.read_bytes(), options)
    x = images.numpy()
    return lambda: session.run(None, {"x": x})


def kill_half(model):
    """Leaves no edge at half of the inner nodes of each block, the number of real edges as it is."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for network in model.networks:
            wiring = network.wiring
            dead = torch.rand(wiring.num_nodes, generator=generator) < 0.5
            edge = dead[wiring.src]
            room = int((~edge).sum())
            if room >= network.selector.num_real:
                network.weight[edge] *= 1e-9


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--backends", nargs="*", default=["sparse", "dense", "dgl"])
    parser.add_argument("--storage", nargs="*", default=[], choices=["float16", "bfloat16"])
    parser.add_argument("--authors")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    results = []
    for case in arguments.cases:
        name, options, pixels, classes, batch = CASES[case]
        model = ng.models.create(name, num_classes=classes, image_size=pixels, **options).eval()
        if pixels == 224 and "selector_options" not in options:
            kill_half(model)
        images = torch.randn(batch, 3, pixels, pixels)
        fast = ng.compile(model)

        def by(backend):
            def run():
                for network in model.networks:
                    network.backend = backend
                return model(images)
            return run

        contenders = {"compiled": lambda: fast(images)}
        for storage in arguments.storage:
            small = ng.compile(model, storage=getattr(torch, storage))
            contenders[f"compiled, {storage}"] = lambda small=small: small(images)
        contenders.update({f"{backend} backend": by(backend) for backend in arguments.backends})
        if arguments.authors:
            authors = authors_model(arguments.authors, name, pixels, classes).eval()
            contenders["the authors' code"] = lambda: authors(images)
        if name.startswith("mobilenet"):
            for width in (0.25, 0.5):
                try:
                    contenders[f"onnxruntime MobileNetV1 x{width}"] = in_onnxruntime(
                        MobileNetV1(width, pixels, classes), images)
                except ImportError:
                    print("onnxruntime or onnx is not installed: pip install onnx onnxruntime")
                    break
        with torch.no_grad():
            torch.testing.assert_close(fast(images), by("dense")(), rtol=1e-3, atol=1e-4)
            times = alternate(contenders, arguments.rounds, warm_up=1, settle=0.2)
        cost = ng.analysis.cost(model)
        useful = 2e-6 * cost.multiply_adds * batch / times["compiled"].median
        report(f"{case}: batch {batch}, {pixels} pixels", times, "compiled", results, model=name,
               batch=batch, pixels=pixels, multiply_adds=cost.multiply_adds, useful_gflops=useful)
        print(f"  {cost.multiply_adds:,} multiply-adds per image, compiled {useful:.1f} useful GFLOP/s")
    save(arguments.json, results)
