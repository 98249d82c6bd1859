"""Sparse ordinary models compiled, against runtimes of dense models and other runtimes of sparse ones.

    python benchmarks/compiled_layers.py [--cases CASE...] [--threads N] [--deepsparse PYTHON] [--json FILE]

Weights are random, the smallest of each layer 0 (of convolutions of images, not of the first layer). Contenders take
turns; onnxruntime, OpenVINO and torch run the same weights as a dense model. DeepSparse needs an older Python environment:
give its interpreter, and it takes its turns in a process of its own, by whose clock it is timed. Of several threads, those
of each library are given a while to come to rest before the next one's turn (--settle).
"""

import argparse
import statistics
import subprocess
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from common import alternate, report, save
from resnets import resnet18, resnet50
from torch import nn

import neuralgraph as ng
from neuralgraph.analysis.speed import Timing

DENSITIES = (0.1, 0.05)
RESNETS = {"resnet18": resnet18, "resnet50": resnet50}
CASES = [f"{name}-{pixels}-batch-{batch}" for name in RESNETS for pixels in (32, 224) for batch in (1, 16)] + \
    [f"transformer-{tokens}-tokens" for tokens in (1, 16, 128)]

DEEPSPARSE = """
import sys, time
import numpy as np
from deepsparse import Engine
path, values, threads = sys.argv[1:]
x = [np.load(values)]
engine = Engine(model=path, batch_size=len(x[0]), num_cores=int(threads))
np.save(values, engine.run(x)[0])
print("ready", flush=True)
for _ in sys.stdin:
    start = time.perf_counter()
    engine.run(x)
    print(1000 * (time.perf_counter() - start), flush=True)
"""


class DeepSparse:
    """An engine in a process of its own, which runs when it is called.

    Attributes:
        milliseconds: of each run.
        result: of the model.
    """

    def __init__(self, python, path, x):
        values = Path(path).with_suffix(".npy")
        np.save(values, x.numpy())
        self.process = subprocess.Popen([python, "-c", DEEPSPARSE, str(path), str(values), str(torch.get_num_threads())],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        line = self.process.stdout.readline()
        while line and line != "ready\n":  # it greets
            line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{python} -c 'import deepsparse' and see: its engine did not start.")
        self.milliseconds, self.result = [], torch.from_numpy(np.load(values))

    def __call__(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.milliseconds.append(float(self.process.stdout.readline()))

    def timing(self, rounds, settle):
        """Of the last rounds, of whose runs the first is not timed where contenders settle."""
        times = self.milliseconds[-rounds * (2 if settle else 1):][settle > 0::2 if settle else 1]
        low, _, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else 3 * times
        return Timing(statistics.median(times), low, high)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Feedforward(nn.Sequential):
    """The linear layers of a transformer block of width 768: projections, then the wide and the narrow layer."""

    def __init__(self):
        super().__init__(nn.Linear(768, 2304), nn.Linear(2304, 768), nn.Linear(768, 3072), nn.GELU(), nn.Linear(3072, 768))


def pruned(model, density):
    """The model with all but the largest weights of each layer 0, and norms that are not trivial."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, 0, 0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
        elif isinstance(layer, nn.Linear) or isinstance(layer, nn.Conv2d) and layer.in_channels > 3:
            weight = layer.weight.detach()
            weight.mul_(weight.abs() > weight.abs().flatten().kthvalue(round(weight.numel() * (1 - density))).values)
    return model.eval()


def exported(model, x, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x,), str(path), dynamo=False, input_names=["x"], opset_version=13)
    return path


def in_onnxruntime(path, x):
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path.read_bytes(), options)
    x = x.numpy()
    return lambda: session.run(None, {"x": x})


def in_openvino(path, x):
    import openvino
    core = openvino.Core()
    compiled = core.compile_model(str(path), "CPU", {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "NUM_STREAMS": 1,
                                                     "INFERENCE_PRECISION_HINT": "f32"})
    request, x = compiled.create_infer_request(), x.numpy()
    return lambda: request.infer({0: x})


def in_csr(model):
    """The linear layers by torch's own sparse matrices."""
    layers = [(layer.weight.to_sparse_csr(), layer.bias[:, None]) if isinstance(layer, nn.Linear) else layer for layer in model]

    def run(x):
        y = x.T
        for layer in layers:
            y = layer[0] @ y + layer[1] if isinstance(layer, tuple) else layer(y)
        return y.T
    return run


def in_mkl(model):
    """The linear layers by the sparse products of MKL (packages sparse-dot-mkl and mkl; ``MKL_RT`` names its libmkl_rt)."""
    import scipy.sparse
    from sparse_dot_mkl import dot_product_mkl, mkl_set_num_threads
    mkl_set_num_threads(torch.get_num_threads())
    layers = [(scipy.sparse.csr_matrix(layer.weight.numpy()), layer.bias.numpy()[:, None]) if isinstance(layer, nn.Linear)
              else None for layer in model]

    def run(x):
        y = x.numpy().T
        for layer in layers:
            y = nn.functional.gelu(torch.from_numpy(y)).numpy() if layer is None else \
                dot_product_mkl(layer[0], y, dense=True) + layer[1]
        return y.T
    return run


def measure(case, arguments, results):
    name, *_, last = case.split("-")
    is_image = name in RESNETS
    if is_image:
        pixels = int(case.split("-")[1])
        x = torch.randn(int(last), 3, pixels, pixels)
    else:
        x = torch.randn(int(case.split("-")[1]), 768)
    contenders, engines = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for density in DENSITIES:
            torch.manual_seed(0)
            model = pruned(RESNETS[name](pixels) if is_image else Feedforward(), density).requires_grad_(False)
            fast = ng.compile(model, x)
            torch.testing.assert_close(fast(x), model(x), rtol=1e-3, atol=1e-3 * float(model(x).abs().max()))
            label = f"compiled, {1 - density:.0%} zeros"
            contenders[label] = lambda fast=fast: fast(x)
            if not is_image:
                for kind, made in {"torch CSR": in_csr, "MKL sparse": in_mkl}.items():
                    try:
                        run = made(model)
                        torch.testing.assert_close(torch.as_tensor(run(x)), model(x), rtol=1e-3, atol=1e-3)
                        contenders[f"{kind}, {1 - density:.0%} zeros"] = lambda run=run: run(x)
                    except (ImportError, ValueError) as error:
                        print(f"{kind} does not run here: {error}")
            path = exported(model, x, Path(folder) / f"{density}.onnx")
            if arguments.deepsparse:
                engine = engines[f"DeepSparse, {1 - density:.0%} zeros"] = DeepSparse(arguments.deepsparse, path, x)
                torch.testing.assert_close(engine.result, model(x), rtol=1e-2, atol=1e-2 * float(model(x).abs().max()))
        contenders["onnxruntime"], contenders["OpenVINO"] = in_onnxruntime(path, x), in_openvino(path, x)
        contenders["torch"] = lambda: model(x)
        times = alternate({**contenders, **engines}, arguments.rounds, settle=arguments.settle)
    for label, engine in engines.items():
        times[label] = engine.timing(arguments.rounds, arguments.settle)
        engine.close()
    report(f"{case}, {torch.get_num_threads()} threads", times, "onnxruntime", results, case=case,
           threads=torch.get_num_threads(), settle=arguments.settle)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--deepsparse", help="Python of an environment with deepsparse")
    parser.add_argument("--settle", type=float, help="seconds before each turn; by default 0.1 with several threads, else 0")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    if arguments.settle is None:
        arguments.settle = 0.1 if arguments.threads > 1 else 0.0
    torch.set_num_threads(arguments.threads)
    results = []
    with torch.no_grad():
        for case in arguments.cases:
            measure(case, arguments, results)
    save(arguments.json, results)


if __name__ == "__main__":
    main()
