"""Files of runs as older versions wrote them."""

import numpy as np

from neuralgraph.training import history


def write_wirings(folder, steps):
    """A file ``wiring/epoch-NNNN.npz`` of each of these steps, the ends of epochs from 0 on, from a run's history."""
    found, paths = history(folder), []
    (folder / "wiring").mkdir(exist_ok=True)
    for epoch, step in enumerate(steps):
        arrays = {}
        for part in range(len(found.parts)):
            moment = found.at(step, part)
            arrays |= {f"real_{part}": np.packbits(moment.real.numpy()), f"edges_{part}": np.int64(len(moment.real)),
                       f"weight_{part}": moment.weight[moment.real].numpy()}
        paths.append(folder / "wiring" / f"epoch-{epoch:04d}.npz")
        np.savez_compressed(paths[-1], **arrays)
    return paths
