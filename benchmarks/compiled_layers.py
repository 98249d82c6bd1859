"""Sparse ordinary models compiled, against runtimes of dense models and other runtimes of sparse ones.

    python benchmarks/compiled_layers.py [--cases CASE...] [--threads N] [--deepsparse PYTHON] [--json FILE]

Weights are random, the smallest of each layer 0 (of convolutions of images, not of the first layer). Contenders take
turns in one process; onnxruntime, OpenVINO and torch run the same weights as a dense model. DeepSparse needs an older
Python environment: give its interpreter, and it is timed in a process of its own, in the same minute.
"""

import argparse
import subprocess
import tempfile
import warnings
from pathlib import Path

import torch
from common import alternate, report, save
from resnets import resnet18, resnet50
from torch import nn

import neuralgraph as ng

DENSITIES = (0.1, 0.05)
RESNETS = {"resnet18": resnet18, "resnet50": resnet50}
CASES = [f"{name}-{pixels}-batch-{batch}" for name in RESNETS for pixels in (32, 224) for batch in (1, 16)] + \
    [f"transformer-{tokens}-tokens" for tokens in (1, 16, 128)]

DEEPSPARSE = """
import sys, time
import numpy as np
from deepsparse import Engine
path, threads, rounds, *shape = sys.argv[1:]
engine = Engine(model=path, batch_size=int(shape[0]), num_cores=int(threads))
x = [np.random.randn(*map(int, shape)).astype(np.float32)]
times = []
for _ in range(int(rounds) + 3):
    start = time.perf_counter()
    engine.run(x)
    times.append(time.perf_counter() - start)
print(*[1000 * t for t in times[3:]])
"""


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


def exported(model, x, folder):
    path = Path(folder) / "model.onnx"
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


def in_deepsparse(python, path, x, rounds):
    """Milliseconds of each run."""
    command = [python, "-c", DEEPSPARSE, str(path), str(torch.get_num_threads()), str(rounds), *map(str, x.shape)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().splitlines()
    return [float(time) for time in lines[-1].split()]


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
    """The linear layers by the sparse products of MKL (package sparse-dot-mkl)."""
    import scipy.sparse
    from sparse_dot_mkl import dot_product_mkl, set_num_threads
    set_num_threads(torch.get_num_threads())
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
    contenders, others = {}, {}
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
            path = exported(model, x, folder)
            if arguments.deepsparse:
                others[f"DeepSparse, {1 - density:.0%} zeros"] = in_deepsparse(arguments.deepsparse, path, x, arguments.rounds)
        contenders["onnxruntime"], contenders["OpenVINO"] = in_onnxruntime(path, x), in_openvino(path, x)
        contenders["torch"] = lambda: model(x)
        times = alternate(contenders, arguments.rounds)
    for label, milliseconds in others.items():
        quartiles = torch.tensor(milliseconds).quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
        times[label] = type(times["torch"])(quartiles[1], quartiles[0], quartiles[2])
    report(f"{case}, {torch.get_num_threads()} threads", times, "onnxruntime", results, case=case,
           threads=torch.get_num_threads())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--deepsparse", help="Python of an environment with deepsparse")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = []
    with torch.no_grad():
        for case in arguments.cases:
            measure(case, arguments, results)
    save(arguments.json, results)


if __name__ == "__main__":
    main()
