"""Which nodes to split."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch

from ..errors import InputError, MissingPackageError, is_real, lookup

COSTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "multiply-adds": lambda cost: cost, "log-multiply-adds": torch.log}
KEEP = 0.9  # a node whose share of the linear program is at least this is split

Cost = str | Callable[[str], float] | Mapping[str, float] | None


def check_fraction(fraction: float) -> None:
    """Refuses a share of nodes, or of their cost, that is not above 0 and below 1."""
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 < fraction < 1:
        is_number = isinstance(fraction, (int, float)) and not isinstance(fraction, bool)
        what = "" if not is_number or not (fraction <= 0 or fraction >= 1) else \
            f", which would split {'nothing' if fraction <= 0 else 'everything'}"
        raise InputError(f"fraction must be a number above 0 and below 1, got {fraction!r}{what}.")


def check_cost(cost: Cost, layer_cap: float | None) -> None:
    """Refuses what is no cost, or no cap on it."""
    if layer_cap is not None and cost is None:
        raise InputError(f"layer_cap={layer_cap!r} is a share of the cost of a layer: give a cost too, such as "
                         "cost='multiply-adds'.")
    if layer_cap is not None and (isinstance(layer_cap, bool) or not isinstance(layer_cap, (int, float))
                                  or not 0 < layer_cap <= 1):
        raise InputError(f"layer_cap must be a number above 0 and at most 1, got {layer_cap!r}.")
    if not (cost is None or callable(cost) or isinstance(cost, Mapping)):
        lookup("cost", cost, COSTS, " Or a function or a mapping from the label of a node to its cost.")


def lowest(eigenvalues: torch.Tensor, fraction: float) -> torch.Tensor:
    """The floor(g n) units of lowest eigenvalue, strictly below the next one's and below 0; a mask (n,).

    Raises:
        InputError: if that is not even one.

    >>> lowest(torch.tensor([-1.0, 0.5, -3.0, -2.0, -2.0]), 0.5)
    tensor([False, False,  True, False, False])
    """
    number = math.floor(fraction * len(eigenvalues) + 1e-9)
    if number < 1:
        raise InputError(f"fraction={fraction} of the {len(eigenvalues)} nodes that can be split is less than one, "
                         f"so that nothing is split; give at least {math.ceil(1e4 / len(eigenvalues)) / 1e4}.")
    threshold = eigenvalues.sort().values[number]
    return (eigenvalues < threshold) & (eigenvalues < 0)


def affordable(eigenvalues: torch.Tensor, costs: torch.Tensor, fraction: float, layers: torch.Tensor | None = None,
               layer_cap: float = 1.0) -> torch.Tensor:
    """The units of greatest gain that a share of all costs pays for; a mask (n,).

        min sum_v beta_v lambda_v,    0 <= beta_v <= 1,    sum_v beta_v c_v <= fraction sum_v c_v,
        and in each layer    sum_v beta_v c_v <= layer_cap sum_v c_v,

    a linear program, of which beta_v >= 0.9 are split ("Energy-Aware Neural Architecture Optimization with
    Fast Splitting Steepest Descent", Wang et al., 2019).

    Args:
        layers: the layer of each unit, (n,), where they have a cap.

    Raises:
        InputError: if that pays for none of those whose eigenvalue is below 0.
        MissingPackageError: without scipy.
    """
    try:
        from scipy.optimize import linprog
    except ImportError as error:
        raise MissingPackageError("the energy-aware choice of nodes", "scipy", "grow") from error
    if not (eigenvalues < 0).any():
        return torch.zeros_like(eigenvalues, dtype=torch.bool)
    scale = eigenvalues.abs().max()
    members, bounds = [torch.ones_like(costs)], [fraction]
    if layers is not None and layer_cap < 1:
        members += [(layers == layer).to(costs) for layer in layers.unique()]
        bounds += [layer_cap] * (len(members) - 1)
    shares = torch.stack([mask * costs / (mask * costs).sum() for mask in members])
    found = linprog((eigenvalues / scale).numpy(), A_ub=shares.numpy(), b_ub=bounds, bounds=(0, 1), method="highs")
    chosen = (torch.from_numpy(found.x) >= KEEP) & (eigenvalues < 0)
    if not chosen.any():
        cap = f" and layer_cap={layer_cap} of that of its layer" if layer_cap < 1 else ""
        raise InputError(f"fraction={fraction} of the cost of all nodes{cap} pays for none whose eigenvalue is below 0, "
                         f"so that nothing is split: give {'larger ones' if cap else 'a larger one'}.")
    return chosen


def priced(cost: str | Callable[[str], float] | Mapping[str, float], labels: Sequence[str],
           multiply_adds: torch.Tensor) -> torch.Tensor:
    """The cost of each unit.

    Raises:
        InputError: for a cost that is not a finite number above 0, or lacks a label.
    """
    if isinstance(cost, str):
        return lookup("cost", cost, COSTS)(multiply_adds)
    prices = []
    for label in labels:
        if isinstance(cost, Mapping) and label not in cost:
            raise InputError(f"cost has no entry for {label!r}: give one for every node that can be split.")
        price: object = cost[label] if isinstance(cost, Mapping) else cost(label)
        if not is_real(price) or not 0 < price < math.inf:
            raise InputError(f"the cost of {label!r} must be a finite number above 0, got {price!r}.")
        prices.append(float(price))
    return torch.tensor(prices, dtype=torch.float64)
