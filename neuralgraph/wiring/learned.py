"""Learned values of nodes as networkx and files have them: numbers, and lists of numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Sequence
from typing import Any

import torch

from ..nodes import NodeFunction, operations_of, used_values, value_name, value_shapes
from .reading import common_shape, middle, possible_dims

Learned = list[dict[str, list[float]]]


def read_values(labels: Sequence[Hashable], functions: Sequence[NodeFunction], learned: list[dict],
                dims: int | None, faults: list[str]) -> int:
    """Makes all values lists of numbers, and finds for maps of how many dimensions they are.

    Args:
        functions: of each node.
        learned: of each node its values by name; changed in place.
        dims: what they should be for, None to find it out.
        faults: what is wrong is added here.

    Returns:
        ``dims``, or that for which the values have the right number of numbers, 2 if it may be.
    """
    for label, function, values in zip(labels, functions, learned):
        used = used_values(function)
        for name, value in values.items():
            values[name] = _numbers(value)
            if name not in used:
                faults.append(f"node {label!r} does not use the learned value {name!r}: remove it, or give the node "
                              "a function that has it.")
            if values[name] is None:
                faults.append(f"node {label!r} has {name} {value!r}; expected a number or a list of numbers, all "
                              "finite.")
            elif name.startswith("norm_var") and min(values[name], default=0) < 0:
                faults.append(f"node {label!r} has {name} {value!r}; a variance is not negative.")
    kinds = {(function, name, len(value)) for function, values in zip(functions, learned)
             for name, value in values.items() if value is not None and name in used_values(function)}
    possible = [dims] if dims is not None else possible_dims(dict.fromkeys(functions)) or [2]
    dims = min(possible, key=lambda dims: sum(size != _size(function, name, dims) for function, name, size in kinds))
    for label, function, values in zip(labels, functions, learned):
        for name, value in values.items():
            needed = _size(function, name, dims) if name in used_values(function) else None
            if value is not None and needed is not None and len(value) != needed:
                size = f"kernel_size {function.kernel_size}" if name == "kernel" else "function"
                faults.append(f"node {label!r} has a {name} of {len(value)} numbers; its {size} needs {needed} with "
                              f"dims={dims}.")
    return dims


def _size(function: NodeFunction, name: str, dims: int) -> int:
    return math.prod(value_shapes(function, dims)[name])


def _numbers(value: Any) -> list[float] | None:
    """One number, a list of them, or the JSON text of a list (GraphML and GEXF hold no lists)."""
    try:
        if isinstance(value, str):
            value = json.loads(value)
        value = value.tolist() if hasattr(value, "tolist") else value
        found = list(value) if isinstance(value, (list, tuple)) else [value]
        if any(isinstance(number, (bool, str)) for number in found):
            return None
        found = [float(number) for number in found]
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None
    return found if all(map(math.isfinite, found)) else None


def initial_values(functions: Sequence[NodeFunction], learned: Learned, dims: int,
                   generator: torch.Generator) -> Learned:
    """The values of all nodes, with what some lack as their operations begin.

    Names that no node has a value of stay away.
    """
    names = {name for values in learned for name in values}
    lacking: dict[NodeFunction, list[int]] = {}
    for node, (function, values) in enumerate(zip(functions, learned)):
        if (names & used_values(function)) - values.keys():
            lacking.setdefault(function, []).append(node)
    filled = list(learned)
    for function, nodes in lacking.items():
        drawn: dict[str, list] = {}
        seen: dict[type, int] = {}
        for kind in (*operations_of(function, "receive"), *operations_of(function, "send")):
            seen[kind] = occurrence = seen.get(kind, 0) + 1
            operation = kind(function, len(nodes), dims)
            operation.reset(generator)
            for name, attribute in kind.learned.items():
                rows = operation.value(attribute).detach().double().reshape(len(nodes), -1)
                drawn[value_name(name, occurrence)] = rows.tolist()
        for row, node in enumerate(nodes):
            filled[node] = {name: rows[row] for name, rows in drawn.items() if name in names} | learned[node]
    return filled


def stacked(functions: Sequence[NodeFunction], learned: Learned, dims: int) -> dict[str, torch.Tensor]:
    """Each value of all nodes as one tensor (V, ...); smaller ones stand in the middle of the largest shape."""
    members: dict[NodeFunction, list[int]] = {}
    for node, function in enumerate(functions):
        members.setdefault(function, []).append(node)
    parameters: dict[str, torch.Tensor] = {}
    for name in sorted({name for values in learned for name in values}):
        shape = common_shape(members, name, dims)
        parameters[name] = torch.zeros(len(functions), *shape, dtype=torch.float64)
        for function, nodes in members.items():
            if name in used_values(function):
                own = value_shapes(function, dims)[name]
                rows = torch.tensor([learned[node][name] for node in nodes], dtype=torch.float64)
                parameters[name][middle(shape, own, torch.tensor(nodes))] = rows.reshape(len(nodes), *own)
    return parameters
