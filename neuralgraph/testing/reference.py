"""The mathematics written down plainly, one node at a time: what every backend must equal."""

from __future__ import annotations

from collections.abc import Mapping

import networkx as nx
import torch
import torch.nn.functional as F

from ..networks import NeuralGraph
from ..nodes import NodeFunction
from ..wiring import Wiring

Values = Mapping[str, torch.Tensor]

ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh, "silu": lambda x: x * torch.sigmoid(x),
               "sigmoid": torch.sigmoid}


def node_values(network: NeuralGraph) -> dict[str, torch.Tensor]:
    """Differentiable copies of the learned node values, {name: (V, ...)}."""
    return {name: value.clone().requires_grad_("mean" not in name and "var" not in name)
            for name, value in network.functions.export().items()}


class Steps:
    """receive and send of one node, with its own numbering of repeated operations."""

    def __init__(self, function: NodeFunction, node: int, values: Values, training: bool):
        self.function, self.node, self.values, self.training = function, node, values, training
        self.seen: dict[str, int] = {}

    def value(self, name: str, kind: str) -> torch.Tensor:
        count = self.seen[kind]
        return self.values[name if count == 1 else f"{name}_{count}"][self.node]

    def run(self, steps: str, x: torch.Tensor) -> torch.Tensor:
        for kind in steps.split():
            self.seen[kind] = self.seen.get(kind, 0) + 1
            x = getattr(self, kind)(x)
        return x

    def skip(self, steps: str) -> None:
        for kind in steps.split():
            self.seen[kind] = self.seen.get(kind, 0) + 1

    def norm(self, x: torch.Tensor) -> torch.Tensor:
        if self.function.norm == "batch" and not self.training:
            mean, var = self.value("norm_mean", "norm"), self.value("norm_var", "norm")
        else:
            dims = tuple(range(0 if self.function.norm == "batch" else 1, x.dim()))
            mean, var = x.mean(dims, keepdim=True), x.var(dims, unbiased=False, keepdim=True)
        hat = (x - mean) / torch.sqrt(var + 1e-5)
        return hat * self.value("norm_weight", "norm") + self.value("norm_bias", "norm")

    def activation(self, x: torch.Tensor) -> torch.Tensor:
        return ACTIVATIONS[self.function.activation](x)

    def conv(self, x: torch.Tensor) -> torch.Tensor:
        side, size = self.values["kernel"].shape[-1], self.function.kernel_size
        edge, dims = (side - size) // 2, x.dim() - 1
        kernel = self.value("kernel", "conv")[(slice(edge, side - edge),) * dims]
        y = getattr(F, f"conv{dims}d")(x[:, None], kernel[None, None], stride=self.function.stride,
                                       padding=size // 2)[:, 0]
        if self.function.zero_pad:
            whole = x.new_zeros(x.shape)
            inside = [slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(x.shape[1:], y.shape[1:])]
            y = whole.index_put(tuple(torch.meshgrid(
                torch.arange(len(x)), *(torch.arange(s.start, s.stop) for s in inside), indexing="ij")), y)
        return y

    def bias(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.value("bias", "bias")


def static_forward(wiring: Wiring, values: Values, weight: torch.Tensor, x: torch.Tensor, training: bool,
                   ) -> tuple[torch.Tensor, dict[int, torch.Tensor], dict[int, torch.Tensor]]:
    """(y, sums I_v, messages Z_u) of a static graph with the given effective weights."""
    graph = nx.DiGraph()
    graph.add_nodes_from(range(wiring.num_nodes))
    parents: dict[int, list[tuple[int, int]]] = {node: [] for node in graph}
    for edge, (u, v) in enumerate(zip(wiring.src.tolist(), wiring.dst.tolist())):
        graph.add_edge(u, v)
        parents[v].append((u, edge))
    inputs = {node: i for i, node in enumerate(wiring.inputs.tolist())}
    sums: dict[int, torch.Tensor] = {}
    states: dict[int, torch.Tensor] = {}
    messages: dict[int, torch.Tensor] = {}
    for node in nx.topological_sort(graph):
        steps = Steps(wiring.function_of(node), node, values, training)
        if node in inputs:
            steps.skip(steps.function.receive)
            states[node] = x[:, inputs[node]]
        else:
            size = [-(-side // int(wiring.scale[node])) for side in x.shape[2:]]
            product = steps.function.aggregate == "product"
            total = torch.full((len(x), *size), float(product), dtype=x.dtype, requires_grad=True) + 0
            for u, edge in parents[node]:
                if not product:
                    total = total + weight[edge] * messages[u]
                elif weight[edge] != 0:
                    total = total * (weight[edge] * messages[u])
            total.retain_grad()
            sums[node] = total
            states[node] = steps.run(steps.function.receive, total)
        messages[node] = steps.run(steps.function.send, states[node])
    y = torch.stack([states[node] for node in wiring.outputs.tolist()], dim=1)
    return y, sums, messages


def dynamic_update(wiring: Wiring, values: Values, weight: torch.Tensor, states: torch.Tensor,
                   training: bool = False) -> torch.Tensor:
    """The states (B, V, *space) of all nodes after one update."""
    steps = [Steps(wiring.function_of(node), node, values, training) for node in range(wiring.num_nodes)]
    messages = []
    for node, step in enumerate(steps):
        step.skip(step.function.receive)
        messages.append(step.run(step.function.send, states[:, node]))
    updated = []
    for node, step in enumerate(steps):
        product = step.function.aggregate == "product"
        total = torch.full_like(states[:, node], float(product))
        for edge in (wiring.dst == node).nonzero().flatten().tolist():
            arriving = weight[edge] * messages[int(wiring.src[edge])]
            if not product:
                total = total + arriving
            elif weight[edge] != 0:
                total = total * arriving
        step.seen = {}
        updated.append(states[:, node] if wiring.holds[node] else step.run(step.function.receive, total))
    return torch.stack(updated, dim=1)


def edge_gradient(wiring: Wiring, sums: Mapping[int, torch.Tensor], messages: Mapping[int, torch.Tensor],
                  weight: torch.Tensor) -> torch.Tensor:
    """dL/dw_uv for every candidate edge, after backward.

    Into a node that adds it is <Z_u, dL/dI_v> (methods: Algorithm 1); into one that multiplies
    <Z_u product of the other real factors, dL/dI_v>.
    """
    ends = list(zip(wiring.src.tolist(), wiring.dst.tolist()))
    gradient = []
    for edge, (u, v) in enumerate(ends):
        slope = messages[u].detach().clone()
        if wiring.function_of(v).aggregate == "product":
            for other, (t, w) in enumerate(ends):
                if w == v and other != edge and weight[other] != 0:
                    slope *= weight[other].detach() * messages[t].detach()
        upstream = sums[v].grad
        gradient.append((slope * upstream).sum() if upstream is not None else torch.zeros(()))
    return torch.stack(gradient)
