"""Models as ONNX files, for onnxruntime and everything else that reads them."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from .._files import replace
from .._version import __version__
from ..errors import InputError, MissingPackageError, whole
from ..layers import densify
from ..layers.sparse import sparse_layers
from ..models import Classifier, Preprocessing
from ..networks import NeuralGraph
from ..plan import evaluating, joined, lower, lower_all, refuse_special, special
from ..sharing import plain
from .graph import OnnxGraph
from .layers import add_layer
from .networks import add_plan

if TYPE_CHECKING:
    import onnx

OPSET, IR_VERSION = 17, 8  # read by every onnxruntime since 1.12


def export_onnx(model: Classifier | NeuralGraph, path: str | os.PathLike[str], *,
                space: tuple[int, ...] | None = None, normalise: bool = False) -> None:
    """Writes a model as it is in evaluation, with its effective weights, as an ONNX file.

    It is what :func:`neuralgraph.plan.lower` leaves of it: no dead nodes, constants folded. Of a classifier the
    input is ``images``, normalised float32 (batch, C, S, S) with S the model's image size, and the output
    ``logits`` (batch, classes); of a network ``x`` (batch, inputs, *space) and ``y``. The batch may be any. Sums
    over edges are 1x1 convolutions (for vectors matrix products) whose weights are zero where there is no
    real edge.

    Args:
        model: a classifier of :mod:`neuralgraph.models`, or a network.
        path: of the file; it appears whole or not at all.
        space: of a network, the sides of its maps in pixels, such as (28, 28); () for vectors.
        normalise: the input is uint8, the bytes of the images, and the file normalises them itself; of a
            classifier that knows how (``model.preprocessing``, which models of runs have).

    What such a classifier knows (mean, std, classes, image size) stands in the file's metadata under
    ``neuralgraph``, as JSON.

    Raises:
        InputError: for a model with parts that have no ONNX form, a continuous-time network first of all,
            with hooks, changed methods, or settings of layers that ONNX does not have, all named; or a path
            that cannot be written.
        MissingPackageError: without the package onnx.
    """
    content = to_onnx(model, space=space, normalise=normalise).SerializeToString()
    try:
        replace(Path(path), content)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def to_onnx(model: Classifier | NeuralGraph, *, space: tuple[int, ...] | None = None,
            normalise: bool = False) -> onnx.ModelProto:
    """The same as an :class:`onnx.ModelProto`, checked."""
    try:
        import onnx
    except ImportError:
        raise MissingPackageError("exporting to ONNX", "onnx", "onnx") from None
    known = getattr(model, "preprocessing", None)
    if normalise and known is None:
        raise InputError("normalise=True needs a classifier that knows how its images are normalised "
                         "(model.preprocessing); ng.training.open_model(RUN)[1] does.")
    graph = OnnxGraph(onnx)
    model = plain(model)
    with torch.no_grad(), evaluating(model):
        if isinstance(model, NeuralGraph):
            names, shape = ("x", "y"), _network_shape(model, space)
            y, after = _network(graph, model, names[0], torch.zeros(1, *shape, dtype=model.weight.dtype))
        elif isinstance(model, Classifier):
            if space is not None:
                raise InputError(f"a classifier is exported for its own {model.image_size}x{model.image_size} "
                                 "images; leave space out.")
            names, shape = ("images", "logits"), (model.in_channels, model.image_size, model.image_size)
            x = names[0] if known is None or not normalise else _normalised(graph, known, names[0])
            y, after = _classifier(graph, model, x, shape)
        else:
            raise InputError(f"expected a classifier of neuralgraph.models or a network, got "
                             f"{type(model).__name__}.")
    graph.add("Identity", y, output=names[1])
    value, number = onnx.helper.make_tensor_value_info, onnx.TensorProto.UINT8 if normalise else onnx.TensorProto.FLOAT
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, "neuralgraph", [value(names[0], number, ["batch", *shape])],
                               [value(names[1], onnx.TensorProto.FLOAT, ["batch", *after.shape[1:]])],
                               list(graph.constants.values())),
        producer_name="neuralgraph", producer_version=__version__, ir_version=IR_VERSION,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)])
    if known is not None:
        onnx.helper.set_model_props(proto, {"neuralgraph": json.dumps(known.to_json())})
    onnx.checker.check_model(proto)
    return proto


def _normalised(graph: OnnxGraph, known: Preprocessing, images: str) -> str:
    """(x / 255 - mean) / std of bytes x."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (known.mean, known.std))
    x = graph.add("Cast", images, to=graph.onnx.TensorProto.FLOAT)
    x = graph.add("Div", x, graph.constant(torch.tensor(255.0)))
    return graph.add("Div", graph.add("Sub", x, graph.constant(mean)), graph.constant(std))


def _network_shape(network: NeuralGraph, space: tuple[int, ...] | None) -> tuple[int, ...]:
    if network.dims == 0 and space is None:
        space = ()
    given = space if isinstance(space, (tuple, list)) else (None,)
    sides = [side for side in map(whole, given) if side is not None and side > 0]
    if not len(sides) == len(given) == network.dims:
        raise InputError(f"an ONNX file is for maps of one size: give space as {network.dims} sides in pixels, such "
                         f"as space={(16,) * network.dims}, got {space!r}.")
    return len(network.wiring.inputs), *sides


def _classifier(graph: OnnxGraph, model: Classifier, x: str, shape: tuple[int, ...]) -> tuple[str, torch.Tensor]:
    refuse_special(model, "the classifier", (Classifier,), inner=False)
    sample = torch.zeros(1, *shape, dtype=next(model.parameters(), torch.zeros(())).dtype)
    if sparse_layers(model):
        model = densify(model)
    x, sample = _module(graph, model.stem, x, sample)
    if model.stages:
        plan = functools.reduce(joined, lower_all(model.stages))
        x = add_plan(graph, plan, x, tuple(sample.shape[2:]))
        for network in model.stages:
            sample = network(sample)
    return _module(graph, model.head, x, sample)


def _network(graph: OnnxGraph, network: NeuralGraph, x: str, sample: torch.Tensor) -> tuple[str, torch.Tensor]:
    return add_plan(graph, lower(network), x, tuple(sample.shape[2:])), network(sample)


def _module(graph: OnnxGraph, module: nn.Module, x: str, sample: torch.Tensor) -> tuple[str, torch.Tensor]:
    """A part of a classifier, and what it makes of a sample, on which shapes are read."""
    if isinstance(module, NeuralGraph):
        return _network(graph, module, x, sample)
    found = special(module, inner=False)
    if found is not None:
        raise InputError(f"cannot export a {type(module).__name__} with {found}: the file would not do the same.")
    if type(module) is nn.Sequential:
        for part in module:
            x, sample = _module(graph, part, x, sample)
        return x, sample
    after = module(sample)
    return add_layer(graph, module, x, sample, after), after
