"""Which weights of a model's layers are real."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from .._html import table
from .sparse import CHOSEN, Sparse, place_of
from .sparsify import can_be_sparse


@dataclass(frozen=True)
class LayerSummary:
    """One layer: how many weights it has, how many are real (None: it is dense), and why it is dense."""

    name: str
    weights: int
    real: int | None
    reason: str = ""


@dataclass(frozen=True)
class Summary:
    """What :func:`sparsify` made of a model; as text, a table."""

    layers: tuple[LayerSummary, ...]

    @property
    def weights(self) -> int:
        """The number of weights that are chosen from."""
        return sum(layer.weights for layer in self.layers if layer.real is not None)

    @property
    def real(self) -> int:
        """How many of them are real."""
        return sum(layer.real for layer in self.layers if layer.real is not None)

    @property
    def density(self) -> float:
        """The share of all weights that are used, dense layers included."""
        every = sum(layer.weights for layer in self.layers)
        return (self.real + every - self.weights) / every if every else 1.0

    def __str__(self):
        width = max(8, *(len(layer.name) for layer in self.layers)) if self.layers else 8
        lines = [f"{'layer':{width}} {'real':>9} {'of weights':>11} {'%':>8}"]
        for layer in self.layers:
            if layer.real is None:
                lines.append(f"{layer.name:{width}} {'':9} {layer.weights:11}  dense: {layer.reason}")
            else:
                lines.append(f"{layer.name:{width}} {layer.real:9} {layer.weights:11} "
                             f"{100 * layer.real / layer.weights:8.2f}")
        every = sum(layer.weights for layer in self.layers)
        lines.append(f"{'together':{width}} {self.real:9} {self.weights:11} "
                     f"{100 * self.real / max(1, self.weights):8.2f}, "
                     f"{100 * self.density:.2f} of all {every} with the dense layers")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = [(layer.name, layer.real, layer.weights, 100 * layer.real / layer.weights if layer.real is not None else None,
                 layer.reason and f"dense: {layer.reason}") for layer in self.layers]
        return table(("layer", "real", "of weights", "%", ""), rows, notes=[
            f"together {self.real:,} of {self.weights:,} weights, {100 * self.density:.2f} % of all with the dense layers"])


def summary(module: nn.Module) -> Summary:
    """Which weights of each layer are real, and why others stayed dense.

    Args:
        module: a model that :func:`sparsify` has made, or with sparse layers.
    """
    reasons, rows = getattr(module, "_dense_because", {}), []
    for name, layer in module.named_modules():
        if isinstance(layer, Sparse):
            rows.append(LayerSummary(name, layer.num_weights, layer.k))
        elif can_be_sparse(layer):
            size = sum(getattr(*place_of(layer, path)).numel() for path in CHOSEN[type(layer)](layer)) \
                if type(layer) in CHOSEN else sum(p.numel() for p in layer.parameters())
            rows.append(LayerSummary(name, size, None, reasons.get(name, "not asked for")))
    return Summary(tuple(rows))
