"""Which edges of a model were real when."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ..analysis import cost, dead_nodes
from ..layers import Sparse
from ..models import Classifier
from ..networks import NeuralGraph
from .checkpoint import check_fits, part


class Turnover:
    """The real edges after the last epoch, and those that were ever real after one.

    Kept for every neural graph and sparse layer inside a model, in the order of ``model.modules()``; the
    candidates of a layer are its weights.

    Args:
        model: any module.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self.parts = [module for module in model.modules()
                      if isinstance(module, (NeuralGraph, Sparse))]
        self.begin()

    @property
    def networks(self) -> list[NeuralGraph]:
        return [module for module in self.parts if isinstance(module, NeuralGraph)]

    def begin(self) -> None:
        """Takes the real edges as they are for those the training begins with."""
        self.last, self.ever = self.real(), self.real()

    def real(self) -> list[torch.Tensor]:
        """The real edges of each part as evaluation has them, bool (E,), on the CPU."""
        return [(module.selection().real if isinstance(module, NeuralGraph)
                 else torch.cat([module.real(name).flatten() for name in module.chosen_weights()])).cpu()
                for module in self.parts]

    def finish_epoch(self) -> dict[str, float]:
        """Takes the real edges as they are for those after an epoch; the metrics that follow from them."""
        real = self.real()
        self.ever = [ever | new for ever, new in zip(self.ever, real)]
        swapped = sum(int((new & ~old).sum()) for new, old in zip(real, self.last))
        self.last = real
        row = {}
        if self.parts:
            row = {"threshold": min(map(_threshold, self.parts, real)), "swapped_edges": swapped,
                   "never_used_edges": sum(int((~ever).sum()) for ever in self.ever)}
        if self.networks:
            row["dead_nodes"] = sum(dead_nodes(module.wiring, mask).count
                                    for module, mask in zip(self.parts, real)
                                    if isinstance(module, NeuralGraph))
        if isinstance(self.model, Classifier):
            row["multiply_adds"] = cost(self.model).multiply_adds
        return row

    @property
    def columns(self) -> list[str]:
        """The names of these metrics."""
        return [*(("threshold", "swapped_edges", "never_used_edges") if self.parts else ()),
                *(("dead_nodes",) if self.networks else ()),
                *(("multiply_adds",) if isinstance(self.model, Classifier) else ())]

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a checkpoint keeps of it."""
        return {f"{name}.{number}": mask for name, masks in (("real", self.last), ("ever", self.ever))
                for number, mask in enumerate(masks)}

    def load(self, tensors: dict[str, torch.Tensor], path: Path) -> None:
        """Takes over what :meth:`tensors` gave to the checkpoint ``path``."""
        real, ever = part(tensors, "real"), part(tensors, "ever")
        for masks in (real, ever):
            check_fits(masks, {str(n): mask for n, mask in enumerate(self.last)}, path)
        self.last = [real[str(n)] for n in range(len(real))]
        self.ever = [ever[str(n)] for n in range(len(ever))]


def _threshold(module: NeuralGraph | Sparse, real: torch.Tensor) -> float:
    """The smallest magnitude of a real edge; nan without real edges."""
    weight = _weight(module)
    kept = weight[real.to(weight.device)].abs()
    return kept.min().item() if len(kept) else float("nan")


def _weight(module: NeuralGraph | Sparse) -> torch.Tensor:
    """The weights of the candidates of a part, (E,)."""
    weights = [module.weight] if isinstance(module, NeuralGraph) else list(module.chosen_weights().values())
    return torch.cat([weight.detach().flatten() for weight in weights])
