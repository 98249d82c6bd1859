"""Which layers of a model are the first that its input meets, and which the last."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping

import torch
from torch import nn


def first_layers(model: nn.Module, layers: Mapping[str, nn.Module], example: object = None) -> list[str]:
    """The layers whose input depends on the output of none of the others.

    Follows the data: through a forward of ``example`` if there is one, and else through the model as
    :mod:`torch.fx` traces it. A model that can be traced by neither is warned of, and its first layer is the
    one that was registered first.

    Args:
        model: left as it is.
        layers: by name, all that are to be compared.
        example: an input of the model, or a tuple of its arguments.
    """
    return _ends(model, layers, example, 0, "give example=x, or first_layer_dense=False and the layers to leave dense "
                 "in skip")


def last_layers(model: nn.Module, layers: Mapping[str, nn.Module], example: object = None) -> list[str]:
    """The layers on whose output the input of none of the others depends, found as :func:`first_layers` are."""
    return _ends(model, layers, example, -1, "give example=x")


def _ends(model, layers, example, end, mend):
    """The first layers, ``end=0``, or the last, ``end=-1``."""
    if len(layers) < 2 or model in layers.values():
        return list(layers)[:1]
    if example is not None:
        return _by_running(model, layers, example)[end]
    found = _by_tracing(model, layers)
    if found is None:
        name, word = list(layers)[end], ("first", "last")[end]
        warnings.warn(f"cannot follow the data through this model without an example of its input, so {name!r}, "
                      f"the layer that was registered {word}, is taken for the {word}: {mend}.", stacklevel=5)
        return [name]
    return found[end]


class _Tracer(torch.fx.Tracer):
    def __init__(self, layers):
        super().__init__()
        self._layers = set(layers)

    def is_leaf_module(self, module, name):
        return module in self._layers or (super().is_leaf_module(module, name)
                                          and not self._layers.intersection(module.modules()))


def _by_tracing(model, layers):
    try:
        graph = _Tracer(layers.values()).trace(model)
    except Exception:  # whatever the model's own code raises when it meets what is no tensor
        return None
    names = {layer: name for name, layer in layers.items()}
    behind: dict[torch.fx.Node, set[str]] = {}  # the layers that were passed last on the way to a node
    first, called, read = [], [], set()
    for node in graph.nodes:
        passed = set().union(*(behind[source] for source in node.all_input_nodes))
        layer = model.get_submodule(node.target) if node.op == "call_module" else None
        if layer in names:
            name = names[layer]
            if not passed and name not in first:
                first.append(name)
            read |= passed - {name}
            called.append(name)
            passed = {name}
        behind[node] = passed
    return (first, _but(called, read)) if first else None


def _by_running(model, layers, example):
    names = {layer: name for name, layer in layers.items()}
    first, called, read = [], [], set()
    marks: dict[torch.Tensor, str] = {}

    def entering(layer, arguments, options):
        name = names[layer]
        passed = set().union(*(_passed(tensor, marks) for tensor in _tensors((arguments, options))))
        if name not in called and not passed:
            first.append(name)
        read.update(passed - {name})
        called.append(name)

    def left(layer, arguments, output):
        def marked(value):
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                value = value.detach().requires_grad_()
                marks[value] = names[layer]
                return value
            return type(value)(map(marked, value)) if type(value) in (tuple, list) else value
        return marked(output)

    hooks = [hook for layer in names for hook in (layer.register_forward_pre_hook(entering, with_kwargs=True),
                                                  layer.register_forward_hook(left))]
    try:
        with _evaluating(model), torch.enable_grad():
            model(*(example if isinstance(example, tuple) else (example,)))
    finally:
        for hook in hooks:
            hook.remove()
    return first, _but(called, read)


def _but(called: list[str], read: set[str]) -> list[str]:
    """The layers that were called and that no other reads."""
    return [name for name in dict.fromkeys(called) if name not in read]


def _passed(tensor: torch.Tensor, marks: dict[torch.Tensor, str]) -> set[str]:
    """The layers whose outputs, marked with their names, a tensor was computed from."""
    if tensor in marks:
        return {marks[tensor]}
    found, seen, nodes = set(), set(), [tensor.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf in marks:
            found.add(marks[leaf])
        nodes += [source for source, _ in node.next_functions]
    return found


def _tensors(thing: object) -> Iterator[torch.Tensor]:
    if isinstance(thing, torch.Tensor):
        yield thing
    elif isinstance(thing, (tuple, list, dict)):
        for part in thing.values() if isinstance(thing, dict) else thing:
            yield from _tensors(part)


@contextlib.contextmanager
def _evaluating(model: nn.Module):
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
