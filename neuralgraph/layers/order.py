"""Which layers of a model are the first that its input meets."""

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
    if len(layers) < 2 or model in layers.values():
        return list(layers)[:1]
    if example is not None:
        return _by_running(model, layers, example)
    found = _by_tracing(model, layers)
    if found is None:
        name = next(iter(layers))
        warnings.warn(f"cannot follow the data through this model without an example of its input, so {name!r}, "
                      "the layer that was registered first, is taken for the first: give example=x, or "
                      "first_layer_dense=False and the layers to leave dense in skip.", stacklevel=3)
        return [name]
    return found


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
    behind, first = set(), []  # nodes that a layer has been passed on the way to
    for node in graph.nodes:
        is_behind = any(source in behind for source in node.all_input_nodes)
        layer = model.get_submodule(node.target) if node.op == "call_module" else None
        if layer in names:
            if not is_behind and names[layer] not in first:
                first.append(names[layer])
            is_behind = True
        if is_behind:
            behind.add(node)
    return first or None


def _by_running(model, layers, example):
    names, first, marks, called = {layer: name for name, layer in layers.items()}, [], set(), set()

    def entering(layer, arguments, options):
        if layer not in called and not any(_depends(tensor, marks) for tensor in _tensors((arguments, options))):
            first.append(names[layer])
        called.add(layer)

    def left(layer, arguments, output):
        def marked(value):
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                value = value.detach().requires_grad_()
                marks.add(value)
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
    return first


def _depends(tensor: torch.Tensor, marks: set[torch.Tensor]) -> bool:
    """Whether a tensor was computed from one of the others."""
    if tensor in marks:
        return True
    seen, nodes = set(), [tensor.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if getattr(node, "variable", None) in marks:
            return True
        nodes += [source for source, _ in node.next_functions]
    return False


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
