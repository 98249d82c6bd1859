"""Operations of your own: a PReLU, and a spline that every node learns for itself.

Each is one class. It is used at once in wirings, files and on all backends, is counted in costs, and, since it says
what it is in one formula, is compiled too.

    python examples/own_operation.py
"""

import math

import torch

import neuralgraph as ng

KNOTS = torch.linspace(-2, 2, 5).tolist()  # one number apart


class PReLU(ng.nodes.LearnedActivation):
    """y = x for x >= 0, a x below, with a learned a per node (He et al., 2015)."""

    name, learned = "prelu", {"prelu_slope": "slope"}
    scalar = ng.nodes.Scalar(lambda x, p: torch.where(x >= 0, x, p[0] * x),
                             formula=lambda x, p: x if x >= 0 else p[0] * x)

    def __init__(self, function, channels, dims):
        super().__init__(function, channels, dims)
        self.slope = torch.nn.Parameter(torch.full((channels,), 0.25))


def spline(x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """The sum over knots of p_k max(0, 1 - |x - knot_k|): linear between the knots, 0 outside."""
    return sum((p[k] * (1 - (x - knot).abs()).clamp(min=0) for k, knot in enumerate(KNOTS)), torch.zeros_like(x))


def spline_formula(x, p):
    """The same of one number."""
    total = 0.0
    for k in range(5):
        total += p[k] * max(0.0, 1.0 - abs(x - (k - 2)))
    return total


class Spline(ng.nodes.LearnedActivation):
    """y = s_v(x), an activation that each node v learns; it starts as max(0, x) up to 2."""

    name, learned = "spline", {"spline_heights": "heights"}
    scalar = ng.nodes.Scalar(spline, formula=spline_formula)

    def __init__(self, function, channels, dims):
        super().__init__(function, channels, dims)
        self.heights = torch.nn.Parameter(torch.tensor(KNOTS).clamp(min=0).repeat(channels, 1))


if __name__ == "__main__":
    ng.register_operation(PReLU)
    ng.register_operation(Spline)
    ng.register_activation("sine", torch.sin)  # without learned values an activation is one line

    functions = [ng.NodeFunction("norm prelu conv"), ng.NodeFunction("norm spline conv"),
                 ng.NodeFunction("activation conv", activation="sine"), ng.NodeFunction()]
    network = ng.StaticNeuralGraph(ng.wirings.blocks([3, 8, 8, 2], functions), ng.TopK(k=60))
    x = torch.randn(4, 3, 12, 12)
    heights = next(p for name, p in network.named_parameters() if name.endswith("heights"))
    gradient, = torch.autograd.grad(network(x).square().mean(), heights)
    print(f"every one of {len(heights)} splines has a gradient: {bool(gradient.any(1).all())}")
    print(ng.analysis.cost(network, 12, 12))

    try:
        ng.compile(network)
    except ng.errors.InputError as error:
        print(f"refused: {error}")
    ng.register_activation("sine", torch.sin, formula=math.sin, replace=True)
    network.eval()
    with torch.no_grad():
        difference = (ng.compile(network)(x) - network(x)).abs().max().item()
    print(f"with a formula it is compiled; outputs differ by {difference:.0e}")
