"""The k largest of E weights: a full sort, torch's and numpy's ways, and the one pass that is used.

    python benchmarks/selection.py [--json FILE]
"""

import argparse

import numpy as np
import torch
from common import alternate, report, save

from neuralgraph.selectors.topk import top_k

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    results = []
    for edges, k in ((325_760, 32_000), (640_000, 32_000), (4_700_000, 159_000)):
        weight = torch.randn(edges, generator=torch.Generator().manual_seed(0))
        contenders = {
            "one pass": lambda: top_k(weight, k, by_magnitude=True),
            "numpy.partition": lambda: np.partition(weight.abs().numpy(), edges - k)[edges - k],
            "torch.topk": lambda: weight.abs().topk(k),
            "a full sort": lambda: weight.abs().sort(),
        }
        report(f"{k} of {edges} weights", alternate(contenders, arguments.rounds), "one pass", results,
               edges=edges, k=k)
    save(arguments.json, results)
