"""Build a channel graph node by node, run it, and take one step of learning.

    python examples/build_by_hand.py
"""

import torch

import neuralgraph as ng
from neuralgraph import NodeFunction

# Two input channels, three hidden nodes that differ, one output. Nodes are numbers; the edges are
# candidates: which of them are real is the selector's business.
smooth = NodeFunction("norm activation conv", norm="instance", kernel_size=5)
halve = NodeFunction("norm activation conv", norm="instance", stride=2)
unit = NodeFunction(receive="bias activation", activation="tanh")  # no convolution: a plain unit

wiring = ng.wirings.from_edges(
    [(0, 2), (1, 2), (2, 3), (0, 4), (1, 4), (3, 5), (4, 5)],
    inputs=[0, 1], outputs=[5],
    functions={2: smooth, 3: halve, 4: NodeFunction("activation conv", stride=2), 5: unit},
)
print(wiring)
print("each node sees maps this many times smaller than the input:", wiring.scale.tolist())

net = ng.StaticNeuralGraph(wiring, selector=ng.TopK(k=5))
x = torch.randn(4, 2, 12, 12)
y = net(x)
print("input", tuple(x.shape), "-> output", tuple(y.shape))

real = net.selection().real
gradient, = torch.autograd.grad(y.square().sum(), net.weight)
for edge in range(wiring.num_edges):
    print(f"{wiring.edge_name(edge)}: weight {net.weight[edge].item():+.3f}, "
          f"{'real        ' if real[edge] else 'hallucinated'}, "
          f"gradient {gradient[edge].item():+.4f}")

# Message passing on the live DGL graph computes the same as the dense product.
net.backend = "dgl"
torch.testing.assert_close(net(x), y)
print("the live graph:", net.graph.num_nodes(), "nodes,", net.graph.num_edges(), "candidate edges")
