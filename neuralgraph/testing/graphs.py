"""Small static wirings that differ in all that a network's parts must bear."""

from __future__ import annotations

import random
from collections.abc import Callable

from ..nodes import NodeFunction
from ..wiring import Wiring, generators as wirings

FUNCTIONS = [
    NodeFunction("norm activation conv"),
    NodeFunction("norm activation conv", norm="instance", kernel_size=5),
    NodeFunction("activation conv", activation="tanh"),
    NodeFunction("norm activation conv", stride=2, norm="instance"),
    NodeFunction(receive="norm activation conv", activation="silu"),
    NodeFunction("conv", "norm activation norm", norm="instance"),
    NodeFunction(receive="bias activation"),
    NodeFunction("bias", "bias"),
    NodeFunction("activation", activation="tanh", aggregate="product"),
    NodeFunction(),
]


PADDED = NodeFunction("conv activation", stride=2, zero_pad=True)
BATCH = NodeFunction("activation", "norm", activation="tanh")


def acts_on(function: NodeFunction, dims: int) -> bool:
    """Whether all its operations can act on maps of so many dimensions."""
    return dims > 0 or not (function.kernel_size or function.norm == "instance")


def random_dag(seed: int, max_hidden: int = 9, num_inputs: int | None = None, instance_up_to: int = 2,
               dims: int = 2) -> Wiring:
    """A static wiring with mixed node functions, sizes and strides, nodes, edges and channels shuffled.

    Instance norms, which need maps of more than one pixel, stand where maps are at most ``instance_up_to``
    times smaller than the input.
    """
    rng = random.Random(seed)
    known = FUNCTIONS if dims == 2 else [f for f in (*FUNCTIONS, PADDED, BATCH) if acts_on(f, dims)]
    drawn, num_outputs = rng.randint(1, 3), rng.randint(1, 3)
    num_inputs = num_inputs or drawn
    hidden = rng.randint(0, max_hidden)
    chosen: list[NodeFunction] = []
    scale: list[int] = []
    message: list[int] = []  # scales too
    edges: list[tuple[int, int]] = []
    target = 1  # how much smaller than inputs outputs are
    for node in range(num_inputs + hidden + num_outputs):
        is_output = node >= num_inputs + hidden
        earlier = list(range(min(node, num_inputs + hidden)))
        if node < num_inputs:
            mine = 1
        else:
            mine = target if is_output else rng.choice([message[u] for u in earlier])
            possible = [u for u in earlier if message[u] == mine]
            parents = rng.sample(possible, rng.randint(1, len(possible)))
            edges += [(u, node) for u in parents]
        function = rng.choice([f for f in known if not (is_output and f.send_stride > 1)
                               and (f.norm != "instance" or mine <= instance_up_to)])
        chosen.append(function)
        scale.append(mine)
        receive = function.receive_stride if node >= num_inputs else 1
        message.append(mine * receive * function.send_stride)
        if node == num_inputs + hidden - 1:
            target = rng.choice(message)
    total = len(chosen)
    order = list(range(total))
    rng.shuffle(order)
    rng.shuffle(edges)
    place = {old: new for new, old in enumerate(order)}
    return wirings.from_edges(
        [(place[u], place[v]) for u, v in edges],
        inputs=[place[v] for v in range(num_inputs)],
        outputs=[place[v] for v in range(num_inputs + hidden, total)],
        functions=[chosen[old] for old in order],
    )


SMALL = NodeFunction("norm activation conv", norm="instance")
STATIC_GENERATORS: dict[str, Callable[[], Wiring]] = {
    "blocks": lambda: wirings.blocks([3, 4, 5, 2]),
    "blocks-instance": lambda: wirings.blocks([3, 4, 4, 2], SMALL),
    "blocks-strided": lambda: wirings.blocks([2, 3, 3, 4], input_stride=2),
    "blocks-receive": lambda: wirings.blocks([2, 3, 3, 2], FUNCTIONS[4]),
    "chain": lambda: wirings.chain([3, 4, 2]),
    "chain-mlp": lambda: wirings.chain([3, 6, 5, 2], FUNCTIONS[6]),
    "complete_dag": lambda: wirings.complete_dag(9, inputs=2, outputs=3),
    "from_edges": lambda: wirings.from_edges([(0, 1), (1, 3), (0, 3), (0, 2)],
                                                inputs=[0], outputs=[2, 3]),
    "erdos_renyi": lambda: wirings.erdos_renyi(7, 0.5, inputs=2, outputs=2, seed=0),
    "barabasi_albert": lambda: wirings.barabasi_albert(7, 2, inputs=2, outputs=1, seed=0),
    "watts_strogatz": lambda: wirings.watts_strogatz(7, 4, 0.75, inputs=2, outputs=2, seed=0),
    "expander": lambda: wirings.expander([4, 6, 5, 3], 2, seed=0),
    "expander-biregular": lambda: wirings.expander([4, 6, 5, 3], 2, seed=0, biregular=True, input_stride=2),
}
