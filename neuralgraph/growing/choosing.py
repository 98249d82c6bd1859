"""Which nodes to split."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch

from ..errors import InputError, MissingPackageError, lookup

COSTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "multiply-adds": lambda cost: cost, "log-multiply-adds": torch.log}
KEEP = 0.9  # a node whose share of the linear program is at least this is split

Cost = str | Callable[[str], float] | Mapping[str, float] | None


def check_fraction(fraction: float) -> None:
    """Refuses a share of nodes, or of their cost, that is not above 0 and below 1."""
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 < fraction < 1:
        what = {0: ", which would split nothing", 1: ", which would split everything"}.get(fraction, "")
        raise InputError(f"fraction must be a number above 0 and below 1, got {fraction!r}{what}.")


def check_cost(cost: Cost) -> None:
    """Refuses what is no cost."""
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


def affordable(eigenvalues: torch.Tensor, costs: torch.Tensor, fraction: float) -> torch.Tensor:
    """The units of greatest gain that a share of all costs pays for; a mask (n,).

        min sum_v beta_v lambda_v,    0 <= beta_v <= 1,    sum_v beta_v c_v <= fraction sum_v c_v,

    a linear program, of which beta_v >= 0.9 are split ("Energy-Aware Neural Architecture Optimization with
    Fast Splitting Steepest Descent", Wang et al., 2019).

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
    found = linprog((eigenvalues / scale).numpy(), A_ub=(costs / costs.sum())[None].numpy(), b_ub=[fraction],
                    bounds=(0, 1), method="highs")
    chosen = (torch.from_numpy(found.x) >= KEEP) & (eigenvalues < 0)
    if not chosen.any():
        raise InputError(f"fraction={fraction} of the cost of all nodes pays for none whose eigenvalue is below 0, "
                         "so that nothing is split: give a larger one.")
    return chosen


def priced(cost: Cost, labels: Sequence[str], multiply_adds: torch.Tensor) -> torch.Tensor:
    """The cost of each unit.

    Raises:
        InputError: for a cost that is not a finite number above 0, or lacks a label.
    """
    if isinstance(cost, str):
        return lookup("cost", cost, COSTS)(multiply_adds)
    prices = []
    for label in labels:
        try:
            price = float(cost[label] if isinstance(cost, Mapping) else cost(label))
        except KeyError:
            raise InputError(f"cost has no entry for {label!r}: give one for every node that can be split.") from None
        if not 0 < price < math.inf:
            raise InputError(f"the cost of {label!r} must be a finite number above 0, got {price!r}.")
        prices.append(price)
    return torch.tensor(prices, dtype=torch.float64)
