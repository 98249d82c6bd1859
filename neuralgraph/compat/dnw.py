"""Checkpoints of the authors' code of "Discovering Neural Wirings"."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from .._files import printable
from ..data.images import whole_number
from ..errors import CheckpointError, InputError, is_real
from ..models import Classifier
from ..models.mobilenet import MobileNetStage, mobilenet_dnw
from ..models.tiny import classifier, stem as build_stem
from ..networks import ContinuousTimeNeuralGraph, DiscreteTimeNeuralGraph, NeuralGraph
from ..selectors import RandomGraph, TopK
from ..selectors.topk import top_k
from ..wiring.generators import complete
from .torch_files import read_state_dict

STRIDED = 32  # pixels: the authors' stem has both strides whatever the size of the images


def load_dnw_checkpoint(source: str | os.PathLike[str] | Mapping[str, torch.Tensor], *,
                        width: float | None = None, image_size: int = 32, small: bool = False,
                        setting: str | None = None, prune_rate: float | None = None,
                        steps: int = 5, backend: str = "auto") -> Classifier:
    """A model from a checkpoint that the authors' code wrote, with the wiring that code would use.

    MobileNet-like files need ``width``; the number of graphs, their blocks and widths are read from
    the shapes (the first graph has stride 1, the others 2). The discrete- and continuous-time tiny
    nets need ``setting`` and ``prune_rate``. The authors rank all positions of their matrices, also
    those where no edge can be; the real edges here are the possible ones among those ranked first, so
    that outputs and gradients are theirs. A random graph keeps the mask it was saved with.

    Args:
        source: a file of ``torch.save``, such as the authors' ``best.pt``, ``init.pt`` or
            ``epoch_N.pt``, of which nothing is run and only tensors are taken; or its contents. Either
            a state dict, with or without the prefix ``module.``, or a training dictionary with one
            under ``model``.
        width: d = 1 - the authors' ``prune_rate``, above 0 and at most 1.
        image_size: side of the images in pixels; decides the stem's stride.
        small: whether the classifier is a set of edges (MobileNetV1-DNW-Small).
        setting: "discrete" or "continuous".
        prune_rate: share of the positions that is not kept, for a tiny net.
        steps: of a discrete-time net.
        backend: see :func:`neuralgraph.backends.create`.

    Raises:
        CheckpointError: for a file that is damaged, claims or unpacks to more than it holds, or is no
            such checkpoint; it names what is missing or does not fit.
        InputError: for an argument that is missing or out of range.
    """
    image_size = whole_number("image_size", image_size, 1, "pixels")
    steps = whole_number("steps", steps, 1, "steps")
    state = _state_dict(source)
    if setting is None:
        if width is None:
            raise InputError("a MobileNet-like checkpoint needs width=... (1 - prune_rate of its "
                             "configuration); a tiny net needs setting=... and prune_rate=....")
        return _mobilenet(state, width, image_size, small, backend)
    if setting not in ("discrete", "continuous"):
        raise InputError(f"setting must be 'discrete' or 'continuous', got {setting!r}.")
    if isinstance(prune_rate, bool) or not is_real(prune_rate) or not 0 <= prune_rate < 1:
        raise InputError(f"prune_rate must be at least 0 and below 1, got {prune_rate!r}.")
    return _tiny(state, setting, float(prune_rate), image_size, steps, backend)


def _mobilenet(state: _State, width, image_size, small, backend) -> Classifier:
    if isinstance(width, bool) or not is_real(width) or not 0 < width <= 1:
        raise InputError(f"width must be above 0 and at most 1, got {width!r}.")
    width = float(width)
    if state.has("linear.graph.weight") != small:
        raise CheckpointError(f"small={small}, but the checkpoint's classifier is "
                              + ("a set of edges: give small=True." if not small else
                                 "dense: give small=False."))
    stages = state.stages()
    classes = len(state.take("linear.graph.weight", None, None, 1, 1) if small else
                  state.take("linear.weight", None, None))
    stem = state.take("conv1.weight", None, None, 3, 3)
    model = mobilenet_dnw(width=width, image_size=image_size, num_classes=classes,
                          in_channels=stem.shape[1], small=small, stages=stages, backend=backend)
    model.to(stem.dtype)
    for number, (network, stage) in enumerate(zip(model.stages, stages)):
        _load_stage(network, state, f"layers.{number}.", stage)
    _fill(model.stem, {"weight": stem}, "the stem")
    head = {f"norm.{name}": value for name, value in state.norm("bn").items()}
    if small:
        network = model.head.get_submodule("edges")
        assert isinstance(network, NeuralGraph)
        _load_edges(network, state, "linear.graph.", model.stages[-1]._outputs)
        head |= {f"edges.{name}": value for name, value in network.state_dict().items()}
    else:
        head |= state.layer("linear")
    _fill(model.head, head, "the classifier")
    state.refuse_leftovers()
    return model


def _load_stage(network: NeuralGraph, state: _State, prefix: str, stage: MobileNetStage) -> None:
    """One graph: rows of the authors' matrix are the nodes of later blocks, columns all but outputs."""
    b, wiring = stage.later_blocks, network.wiring
    kernels = [state.take(prefix + "downsample.0.weight", None, 1, 3, 3)]
    if b > 1:
        kernels.append(state.take(prefix + "conv.weight", None, 1, 3, 3))
    norms = [state.norm(f"{prefix}norm.{block}") for block in range(b)]
    outputs = stage.outputs
    values = {"kernel": torch.cat(kernels)[:, 0]}
    for ours, theirs in (("norm_weight", "weight"), ("norm_bias", "bias"),
                         ("norm_mean", "running_mean"), ("norm_var", "running_var")):
        values[ours] = torch.cat([norm[theirs] for norm in norms])
    for name, value in values.items():
        if len(value) != wiring.num_nodes - outputs:
            raise CheckpointError(f"{prefix}: {len(value)} rows of {name}, expected "
                                  f"{wiring.num_nodes - outputs}.")
        values[name] = torch.cat([value, value.new_zeros(outputs, *value.shape[1:])])
    network.functions.load(values)
    _load_edges(network, state, prefix + "graph.", stage.inputs)


def _load_edges(network: NeuralGraph, state: _State, prefix: str, first_row: int) -> None:
    """Edge weights, and the real edges as the authors' code ranks them."""
    wiring = network.wiring
    matrix = state.take(prefix + "weight", None, None, 1, 1)[:, :, 0, 0]
    mask = None
    if state.has(prefix + "mask"):
        mask = state.take(prefix + "mask", *matrix.shape, 1, 1)[:, :, 0, 0]
    k = network.selector.k
    rows, columns = wiring.dst - first_row, wiring.src
    if mask is not None:
        if int(mask.count_nonzero()) != k:
            raise CheckpointError(f"the mask {prefix}mask keeps {int(mask.count_nonzero())} positions, "
                                  f"but this width or prune rate keeps {k}; give the one it was "
                                  "trained with.")
        ranked = mask != 0
    else:
        ranked = top_k(matrix.flatten().abs(), k).view(matrix.shape)
    real = ranked[rows, columns]
    with torch.no_grad():
        network.weight.copy_(matrix[rows, columns])
    if mask is None:
        network.selector = TopK(int(real.sum()))
    else:
        network.selector = chosen = RandomGraph(int(real.sum()))
        chosen.keep(real)


def _tiny(state: _State, setting, prune_rate, image_size, steps, backend) -> Classifier:
    prefix = "" if setting == "discrete" else "odesolve.odefunc."
    other = "odesolve.odefunc." if setting == "discrete" else ""
    if not state.has(prefix + "graph.weight") and state.has(other + "graph.weight"):
        raise CheckpointError(f"setting={setting!r}, but this is a checkpoint of the other dynamic net.")
    nodes = len(state.take(prefix + "graph.weight", None, None, 1, 1))
    last = state.take("fc.weight", None, None)
    outputs = last.shape[1]
    state.take(prefix + "graph.weight", nodes, nodes, 1, 1)
    inputs = len(state.take("downsample.4.weight", None, None, 1, 1))
    if inputs + outputs > nodes:
        raise CheckpointError(f"{inputs} inputs and {outputs} outputs do not fit a graph of {nodes} "
                              "nodes.")
    first = state.take("downsample.0.weight", None, None, 3, 3)
    positions = nodes * nodes
    selector = TopK(positions - int(prune_rate * positions))
    wiring = complete(nodes, inputs=inputs, outputs=outputs)
    if setting == "discrete":
        network = DiscreteTimeNeuralGraph(wiring, selector, backend, steps=steps)
    else:
        network = ContinuousTimeNeuralGraph(wiring, selector, backend, rectify_state=True)
    model = classifier(network, len(last), first.shape[1], image_size, "authors",
                        torch.Generator())
    model.stem = build_stem(first.shape[1], STRIDED, torch.Generator(), inputs)
    model.to(first.dtype)
    network.functions.load({"kernel": state.take(prefix + "conv.weight", nodes, 1, 3, 3)[:, 0],
                            "norm_weight": state.take(prefix + "norm.weight", nodes),
                            "norm_bias": state.take(prefix + "norm.bias", nodes)})
    _load_edges(network, state, prefix + "graph.", 0)
    stem: dict[str, torch.Tensor] = {}
    for layer in (0, 3, 4):
        stem |= {name.removeprefix("downsample."): value
                 for name, value in state.layer(f"downsample.{layer}").items()}
    for layer in (1, 5):
        stem |= {f"{layer}.{name}": value for name, value in state.norm(f"downsample.{layer}").items()}
    _fill(model.stem, stem, "the stem")
    _fill(model.head, {name.replace("fc", "1"): value for name, value in state.layer("fc").items()},
          "the classifier")
    state.optional("zeros")  # the empty part of the initial state
    state.refuse_leftovers()
    return model


class _State:
    """A state dict whose entries are taken one by one, with errors that name what is missing."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]):
        for name, tensor in tensors.items():
            _check_tensor(name, tensor)
        kinds = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
        if len(kinds) > 1:
            raise CheckpointError(f"the checkpoint mixes {', '.join(sorted(map(str, kinds)))}; expected "
                                  "one type of floating-point numbers.")
        self._tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
        if len(self._tensors) < len(tensors):
            raise CheckpointError("the checkpoint has entries of one name with and without the prefix "
                                  "'module.'.")
        self._taken: set[str] = set()

    def has(self, name: str) -> bool:
        return name in self._tensors

    def take(self, name: str, *shape: int | None) -> torch.Tensor:
        """The entry of this name and shape, of which None leaves a size open (but not empty)."""
        if name not in self._tensors:
            raise CheckpointError(f"the checkpoint has no entry {name!r}: it was not written by the "
                                  "authors' code, or for another setting. It has "
                                  f"{printable(', '.join(sorted(self._tensors)[:6])) or 'nothing'}, ...")
        tensor = self._tensors[name]
        fits = tensor.dim() == len(shape) and all(
            size == expected or (expected is None and size > 0)
            for size, expected in zip(tensor.shape, shape))
        real_mask = name.endswith("mask") and not tensor.is_complex()
        if not fits or not (tensor.is_floating_point() or real_mask):
            expected = " x ".join("n" if size is None else str(size) for size in shape)
            raise CheckpointError(f"the checkpoint's {name!r} is {tensor.dtype} of shape "
                                  f"{tuple(tensor.shape)}; it does not fit, expected floating-point "
                                  f"numbers, {expected}.")
        self._taken.add(name)
        return tensor

    def layer(self, prefix: str) -> dict[str, torch.Tensor]:
        """Weight and bias of a convolution or a fully connected layer."""
        dims = 4 if self.has(f"{prefix}.weight") and self._tensors[f"{prefix}.weight"].dim() == 4 else 2
        return {f"{prefix}.weight": self.take(f"{prefix}.weight", *[None] * dims),
                f"{prefix}.bias": self.take(f"{prefix}.bias", None)}

    def optional(self, name: str) -> None:
        self._taken.add(name)

    def norm(self, prefix: str) -> dict[str, torch.Tensor]:
        """Scale, shift and running statistics of a batch norm."""
        self.optional(f"{prefix}.num_batches_tracked")
        return {name: self.take(f"{prefix}.{name}", None)
                for name in ("weight", "bias", "running_mean", "running_var")}

    def stages(self) -> tuple[MobileNetStage, ...]:
        """The graphs, read from the shapes of their matrices and norms."""
        numbers = sorted({int(match[1]) for name in self._tensors
                          if (match := re.match(r"layers\.(\d+)\.", name))})
        if not numbers or numbers != list(range(len(numbers))):
            raise CheckpointError("the checkpoint has no graphs 'layers.0', 'layers.1', ...: it was not "
                                  "written by the authors' code for a MobileNet-like net.")
        stages: list[MobileNetStage] = []
        for number in numbers:
            prefix = f"layers.{number}."
            rows, columns = self.take(prefix + "graph.weight", None, None, 1, 1).shape[:2]
            inputs = len(self.take(prefix + "downsample.0.weight", None, 1, 3, 3))
            outputs = len(self.take(prefix + "norm.1.weight", None)) \
                if self.has(prefix + "norm.1.weight") else rows
            stage = MobileNetStage(inputs, outputs, rows // outputs, 1 if number == 0 else 2)
            if rows % outputs or columns != inputs + outputs * (stage.later_blocks - 1):
                raise CheckpointError(f"{prefix}graph.weight is {rows} x {columns}, which does not fit "
                                      f"{inputs} inputs and blocks of {outputs}.")
            if stages and inputs != stages[-1].outputs:
                raise CheckpointError(f"{prefix} has {inputs} inputs, which does not fit the "
                                      f"{stages[-1].outputs} outputs of the graph before it.")
            stages.append(stage)
        return tuple(stages)

    def refuse_leftovers(self) -> None:
        """Every entry has to be understood."""
        left = sorted(set(self._tensors) - self._taken)
        if left:
            raise CheckpointError(f"the checkpoint has entries that this model does not: "
                                  f"{printable(', '.join(left[:6]))}.")


def _check_tensor(name: str, tensor: torch.Tensor) -> None:
    """Refuses tensors that are not what they seem before anything is computed with them."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise CheckpointError(f"the checkpoint's {name!r} is not a dense tensor in memory "
                              f"({tensor.layout} on {tensor.device}).")
    stored, shown = tensor.untyped_storage().nbytes(), tensor.numel() * tensor.element_size()
    if shown > stored:
        raise CheckpointError(f"the checkpoint's {name!r} claims {shown:,} bytes of the {stored:,} it "
                              "has; it is damaged or hostile.")
    if tensor.is_floating_point() and not tensor.isfinite().all():
        raise CheckpointError(f"the checkpoint's {name!r} has values that are NaN or infinite: its "
                              "training had diverged, or it is damaged.")


def _fill(module: torch.nn.Module, values: dict[str, torch.Tensor], what: str) -> None:
    """Loads values, of which ``num_batches_tracked`` may be missing."""
    try:
        keys = module.load_state_dict(values, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"{what} does not fit: {' '.join(str(error).split())}") from error
    missing = [name for name in keys.missing_keys if not name.endswith("num_batches_tracked")]
    if missing or keys.unexpected_keys:
        raise CheckpointError(f"{what} does not fit: missing {missing}, left over "
                              f"{keys.unexpected_keys}.")


def _state_dict(source) -> _State:
    if not isinstance(source, Mapping):
        return _State(read_state_dict(Path(source), under="model"))
    content = source.get("model", source)
    if not isinstance(content, Mapping) or not content or not all(
            isinstance(name, str) and isinstance(value, torch.Tensor)
            for name, value in content.items()):
        raise CheckpointError("the checkpoint holds no state dict: expected names of tensors, or a "
                              "training dictionary with such under 'model'.")
    return _State(content)
