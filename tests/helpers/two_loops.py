"""What two processes do for tests/rewiring/test_rewire.py: a plain loop with DistributedDataParallel, each on half a batch."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from loops import OPTIMIZERS, STEPS, batch, network
from torch.nn.parallel import DistributedDataParallel

import neuralgraph as ng


def main(folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, states = dist.get_rank(), {}
    for name in ("rigl", "l1-anneal", "feather", "edge-popup", "targeted-dropout", "random", "set", "snfs", "granet",
                 "srigl", "cht", "chts", "snip", "l0", "spartan", "str", "supermask", "synaptic-strength", "top-kast",
                 "variational-dropout"):
        net = network(name)
        model = DistributedDataParallel(net)
        optimizer = OPTIMIZERS["sgd"](model.parameters())
        ng.rewire(model, optimizer, total_steps=STEPS)
        for step in range(STEPS):
            torch.manual_seed(2 * step + rank)
            x, y = (part.chunk(2)[rank] for part in batch(step))
            optimizer.zero_grad()
            (model(x) - y).square().mean().backward()
            optimizer.step()
        states[name] = net.state_dict()
    torch.save(states, folder / f"{rank}.pt")
    del model  # what it holds of gloo must go first, or may wait forever
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
