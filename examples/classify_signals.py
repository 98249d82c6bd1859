"""A classification of signals: every node is a signal of 64 samples with its own kernel of five taps.

Four kinds of waves (sine, square, saw-tooth, chirp) of random frequency and phase in noise. The trained network is
compiled for the CPU and exported to ONNX.

    python examples/classify_signals.py [FOLDER]
"""

import math
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import neuralgraph as ng

KINDS = ("sine", "square", "saw-tooth", "chirp")
LENGTH = 64


def waves(samples: int, seed: int) -> TensorDataset:
    """Signals (samples, 1, 64) and the number of their kind."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low, high):
        return low + (high - low) * torch.rand(samples, 1, generator=generator)

    time = torch.linspace(0, 1, LENGTH)
    cycles, phase = uniform(3, 8), uniform(0, 2 * math.pi)
    angle = 2 * math.pi * cycles * time + phase
    shapes = torch.stack([
        torch.sin(angle), torch.sin(angle).sign(), 2 * (angle / (2 * math.pi) % 1) - 1,
        torch.sin(phase + 2 * math.pi * cycles * (0.3 + time) ** 2)])
    kind = torch.randint(len(KINDS), (samples,), generator=generator)
    signal = shapes[kind, torch.arange(samples)]
    return TensorDataset((signal + 0.3 * torch.randn(signal.shape, generator=generator))[:, None], kind)


class SignalClassifier(nn.Module):
    """Eight filters, a neural graph on signals, the mean over time, a linear layer."""

    def __init__(self):
        super().__init__()
        node = ng.NodeFunction("norm activation conv", kernel_size=5)
        self.stem = nn.Conv1d(1, 8, 7, padding=3)
        self.graph = ng.StaticNeuralGraph(ng.wirings.blocks([8, 24, 24, 12], node), ng.TopK(k=250), dims=1)
        self.head = nn.Linear(12, len(KINDS))

    def forward(self, x):
        return self.head(self.graph(self.stem(x)).square().mean(2))


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return 100 * (logits.argmax(1) == labels).float().mean().item()


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    torch.manual_seed(0)
    model = SignalClassifier()
    rows = ng.training.fit(
        model, DataLoader(waves(1000, seed=0), batch_size=50, shuffle=True), folder=folder / "run", epochs=6,
        loss=nn.functional.cross_entropy, metrics={"accuracy": accuracy},
        test=DataLoader(waves(500, seed=1), batch_size=250),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.01))
    print(f"test accuracy after {len(rows)} epochs: {rows[-1]['test_accuracy']:.1f} %")

    fast, (x, _) = ng.compile(model), waves(8, seed=2).tensors
    with torch.no_grad():
        difference = (fast(x) - model(x)).abs().max().item()
    print(f"compiled, the outputs differ by {difference:.0e}")
    try:
        ng.export_onnx(model.graph, folder / "graph.onnx", space=(LENGTH,))
        print(f"the graph as ONNX: {folder / 'graph.onnx'}")
    except ng.errors.MissingPackageError as error:
        print(error)
