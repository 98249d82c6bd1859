"""Small networks that are split, and losses to split them by."""

import torch

import neuralgraph as ng
from neuralgraph.growing.building import build
from neuralgraph.growing.units import find

SMOOTH = ng.NodeFunction("norm activation conv", activation="softplus")
SMOOTH_INSTANCE = ng.NodeFunction("norm activation conv", activation="softplus", norm="instance")
UNIT = ng.NodeFunction("bias activation", activation="tanh")


def disturbed(network, seed=0):
    """The network with moments, scales and shifts as if it had been trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in (*network.named_parameters(), *network.named_buffers()):
            if value.is_floating_point() and value.dim() == 1 and "selector" not in name:
                value += 0.3 * torch.rand(value.shape, generator=generator, dtype=value.dtype)
    return network.eval()


def grow(model, halve, epsilon=0.0, share=0.6, seed=0):
    """The model with a random share of all that can be split, moved by epsilon in random directions."""
    units, generator = find(model), torch.Generator().manual_seed(seed)
    chosen = torch.rand(units.number, generator=generator) < share
    step = torch.randn(len(units.owner), generator=generator, dtype=torch.float64) * epsilon * chosen[units.owner]
    leaves = {part.name: part.module.weight.detach() for part in units.parts}
    return build(model, units, chosen, units.spread(step, leaves), halve), int(chosen.sum())


def batches(number=3, inputs=2, side=5, seed=1, size=4):
    generator = torch.Generator().manual_seed(seed)
    space = (side, side) if side else ()
    return [(torch.randn(size, inputs, *space, generator=generator, dtype=torch.float64),
             torch.randn(size, generator=generator, dtype=torch.float64)) for _ in range(number)]


def loss(y, target):
    return (y.flatten(1).mean(1) - target).square().mean()


KINDS = {
    "batch": lambda: ng.StaticNeuralGraph(ng.wirings.blocks([2, 4, 3, 2], SMOOTH), ng.TopK(20), dtype=torch.float64),
    "instance": lambda: ng.StaticNeuralGraph(ng.wirings.blocks([2, 4, 3, 2], SMOOTH_INSTANCE), ng.Complete(),
                                             dtype=torch.float64),
    "two-activations": lambda: ng.StaticNeuralGraph(ng.wirings.chain([2, 3, 3, 2], ng.NodeFunction(
        "bias activation conv", "norm activation", activation="tanh")), ng.Complete(),
        dtype=torch.float64),
    "product": lambda: ng.StaticNeuralGraph(ng.wirings.from_edges(
        [(0, 2), (1, 2), (0, 3), (1, 3), (2, 4), (3, 4)], inputs=[0, 1], outputs=[4],
        functions={2: ng.NodeFunction("activation", activation="tanh", aggregate="product"), 3: SMOOTH, 0: SMOOTH}),
        ng.Complete(), dtype=torch.float64),
    "discrete": lambda: ng.DiscreteTimeNeuralGraph(ng.wirings.complete(7, inputs=2, outputs=1, function=ng.NodeFunction(
        "activation conv", "norm", activation="softplus")), ng.TopK(30), dtype=torch.float64, steps=3),
    "discrete-untied": lambda: ng.DiscreteTimeNeuralGraph(ng.wirings.complete(
        6, inputs=2, outputs=1, function=ng.NodeFunction("activation", "bias", activation="silu")), ng.Complete(),
        dtype=torch.float64, steps=3, tied=False),
}
