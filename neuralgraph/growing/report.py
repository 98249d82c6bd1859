"""What a splitting found and did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .._html import table
from ..errors import listed

SHOWN = 20  # rows of a table


@dataclass(frozen=True)
class SplitNode:
    """One node, or channel of a layer, that can be split.

    Args:
        label: its name.
        eigenvalue: lambda, the lowest of its splitting matrix.
        gain: by how much splitting it lowers the loss to second order, -epsilon^2 lambda / 2; 0 of a node that no
            output depends on.
        cost: multiply-adds of one more copy of it.
        split: whether it was split.
    """

    label: str
    eigenvalue: float
    gain: float
    cost: float
    split: bool


@dataclass(frozen=True)
class SplitReport:
    """What :func:`~neuralgraph.growing.split` found and did; prints as a table.

    Args:
        nodes: all that can be split, in the order of the model.
        refused: the labels of those that cannot, by the reason.
        epsilon: how far the weights into a copy were moved.
        loss_before, loss_after: mean over the batches, in evaluation mode.
        predicted_change: of the loss, the sum of epsilon^2 lambda / 2 over the nodes that were split.
        multiply_adds_before, multiply_adds_after: of the model, on one sample.
        growth: what was split, as JSON has it, for :func:`~neuralgraph.growing.regrow`: "split", by the names of
            graphs and layers in the model the numbers of nodes and channels, and "k" of each graph's selector.
        smoothed: whether functions with a kink, such as ReLU, bent as a softplus in the prediction.
    """

    nodes: tuple[SplitNode, ...]
    refused: dict[str, tuple[str, ...]]
    epsilon: float
    loss_before: float
    loss_after: float
    predicted_change: float
    multiply_adds_before: int
    multiply_adds_after: int
    growth: dict[str, dict[str, Any]]
    smoothed: bool = False

    @property
    def split(self) -> tuple[SplitNode, ...]:
        """The nodes that were split, those of lowest eigenvalue first."""
        return tuple(sorted((node for node in self.nodes if node.split), key=lambda node: node.eigenvalue))

    @property
    def measured_change(self) -> float:
        """Of the loss, computed before and after on the same batches."""
        return self.loss_after - self.loss_before

    @property
    def agreement(self) -> float | None:
        """The measured change divided by the predicted one; None where nothing was split or moved."""
        return self.measured_change / self.predicted_change if self.predicted_change else None

    def __str__(self) -> str:
        split = self.split
        lines = [f"{len(split)} of {len(self.nodes)} nodes split"
                 + ("" if split else ": none has an eigenvalue below 0 and below that of the next")]
        if split:
            width = max(len(node.label) for node in split[:SHOWN])
            lines.append(f"{'node':{width}}  {'eigenvalue':>11}  {'gain':>9}  {'multiply-adds':>13}")
            lines += [f"{node.label:{width}}  {node.eigenvalue:>11.3e}  {node.gain:>9.2e}  {node.cost:>13,.0f}"
                      for node in split[:SHOWN]]
            if len(split) > SHOWN:
                lines.append(f"and {len(split) - SHOWN} more")
        lines += [f"loss           {self.loss_before:.6f} -> {self.loss_after:.6f}", *self._comparison(),
                  f"multiply-adds  {self.multiply_adds_before:,} -> {self.multiply_adds_after:,}"]
        lines += [f"not split      {len(labels)}: {why} ({listed(labels, most=3)})"
                  for why, labels in self.refused.items()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = [(node.label, node.eigenvalue, node.gain, round(node.cost)) for node in self.split]
        return table(("node", "eigenvalue", "gain", "multiply-adds"), rows, f"{len(rows)} of {len(self.nodes)} nodes split", [
            f"loss {self.loss_before:.6f} -> {self.loss_after:.6f} (change {self.measured_change:.2e}, predicted "
            f"{self.predicted_change:.2e})", f"multiply-adds {self.multiply_adds_before:,} -> {self.multiply_adds_after:,}",
            *(f"not split, {len(labels)}: {why} ({listed(labels, most=3)})" for why, labels in self.refused.items())])

    def _comparison(self) -> list[str]:
        """The measured change beside the predicted one."""
        if self.agreement is None:
            return []
        lines = [f"change         measured {self.measured_change:.2e}, predicted {self.predicted_change:.2e} to second "
                 f"order in epsilon={self.epsilon:g}; measured / predicted = {self.agreement:.3g}"]
        if self.smoothed:
            lines.append("               (a kink, as of ReLU, bends as a softplus in the prediction, which is for choosing "
                         "nodes; the model itself bends only where the step crosses a kink)")
        return lines
