"""Compiled models as files: numbers as safetensors, their arrangement as JSON, no code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn

from .._files import digest, read_tensors, replace, tensors_of
from ..errors import CheckpointError, InputError, NeuralGraphError
from ..models import Preprocessing
from ..models.tiny import CentrePool, GlobalPool
from ..nodes import EPSILON, LOWERED, Affine, Convolve, Lowered, Normalize, Pointwise
from ..plan import Group, Plan, checked, special
from .compiling import CompiledModel
from .engine import CompiledNetwork
from .layer_files import layers_from_json, layers_to_json
from .layers import CompiledLayers

FORMAT = 4
READABLE = (2, 3, 4)  # in format 2 steps stood together as parts; since 4 a digest covers all, and ordinary models are kept
LAYERS: dict[type[nn.Module], tuple[str, ...]] = {  # layers of stems and heads, and their settings
    nn.Conv2d: ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups",
                "padding_mode"),
    nn.BatchNorm2d: ("num_features", "eps", "affine", "track_running_stats"),
    nn.Linear: ("in_features", "out_features"),
    nn.AdaptiveAvgPool2d: ("output_size",),
    nn.Flatten: ("start_dim", "end_dim"), nn.ReLU: (), GlobalPool: (), CentrePool: (),
}
BY_NAME = {layer.__name__: layer for layer in LAYERS}
LARGEST = 2**20  # channels, and sides in pixels, are below it
STORAGES = {None: None, "float16": torch.float16, "bfloat16": torch.bfloat16}  # of maps
ARRAYS = {"nodes": np.int64, "channels": np.int64, "outputs": np.int64}


def save(model: CompiledModel | CompiledNetwork | CompiledLayers, path: str | Path) -> None:
    """Writes a compiled network, classifier or ordinary model to a file, whole or not at all.

    An ordinary model is kept for inputs of the sizes that it has seen, its example's and those it was called with
    since, and for any number of samples. What torch computes in it is kept by name.

    Raises:
        InputError: for another module, or one with layers or operations that have no form as data.

    >>> import torch, tempfile, pathlib
    >>> import neuralgraph as ng
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.GELU(), torch.nn.Linear(64, 10))
    >>> fast = ng.compile(ng.sparsify(model, density=0.1), torch.randn(1, 64))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ng.inference.save(fast, pathlib.Path(folder, "fast.ng"))
    ...     again = ng.inference.load(pathlib.Path(folder, "fast.ng"))
    >>> x = torch.randn(5, 64)
    >>> torch.equal(again(x), fast(x))
    True
    """
    path, content = Path(path), to_bytes(model)
    try:
        replace(path, content)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}.") from error


def to_bytes(model: CompiledModel | CompiledNetwork | CompiledLayers) -> bytes:
    """The content of its file."""
    arrays: dict[str, torch.Tensor] = {}
    header: dict[str, object] = {"format": FORMAT}
    if isinstance(model, CompiledNetwork):
        header.update(network=_network_to_json(model, "network", arrays))
    elif isinstance(model, CompiledModel):
        known = model.preprocessing
        header.update(in_channels=model.in_channels, image_size=model.image_size,
                      preprocessing=None if known is None else known.to_json(),
                      stem=_layer_to_json(model.stem, "stem", arrays),
                      network=_network_to_json(model.network, "network", arrays),
                      head=_layer_to_json(model.head, "head", arrays))
    elif isinstance(model, CompiledLayers):
        header.update(layers=layers_to_json(model, arrays))
    else:
        raise InputError("expected what neuralgraph.compile made of a network, a classifier or an ordinary model, got "
                         f"{type(model).__name__}; of another module save its compiled networks.")
    header["digest"] = digest(arrays, header)
    return safetensors.torch.save(arrays, metadata={"neuralgraph compiled": json.dumps(header)})


def load(path: str | Path) -> CompiledModel | CompiledNetwork | CompiledLayers:
    """Reads what :func:`save` wrote.

    Raises:
        CheckpointError: if the file is missing, damaged, foreign or of another version. Nothing in it
            is run, and every number that becomes an address is checked.
    """
    return _read(*read_tensors(Path(path), "file"), str(path))


def from_bytes(content: bytes) -> CompiledModel | CompiledNetwork | CompiledLayers:
    """The inverse of :func:`to_bytes`; raises what :func:`load` does."""
    return _read(*tensors_of(content, "this compiled model"), "this compiled model")


def _read(arrays: dict[str, torch.Tensor], metadata: dict[str, str],
          path: str) -> CompiledModel | CompiledNetwork | CompiledLayers:
    if "neuralgraph compiled" not in metadata:
        raise CheckpointError(f"{path} is no compiled model of neuralgraph.")
    written: object = None
    try:
        header = json.loads(metadata["neuralgraph compiled"])
        if header["format"] not in READABLE:
            newer = isinstance(header["format"], int) and header["format"] > FORMAT
            raise CheckpointError(f"{path} has the format {header['format']!r}; this version of "
                                  f"neuralgraph reads {', '.join(map(str, READABLE))}"
                                  + (": a newer one wrote it." if newer else "."))
        if header["format"] >= 4 and header.pop("digest", None) != digest(arrays, header):
            raise CheckpointError(f"{path} is damaged: its digest does not fit what is in it.")
        if "layers" in header:
            written = header["layers"].get("torch")
            return layers_from_json(header["layers"], arrays)
        network = _network_from_json(header["network"], "network", arrays)
        if "stem" not in header:
            return network.eval()
        known = header.get("preprocessing")  # format 2 had none
        return CompiledModel(_layer_from_json(header["stem"], "stem", arrays), network,
                             _layer_from_json(header["head"], "head", arrays),
                             in_channels=_number(header["in_channels"]),
                             image_size=_number(header["image_size"]),
                             preprocessing=None if known is None else Preprocessing.from_json(known))
    except CheckpointError:
        raise
    except NeuralGraphError as error:
        beside = f" (it was written beside torch {written})" if written and written != torch.__version__ else ""
        raise CheckpointError(f"{path} cannot be used: {error}{beside}") from error
    except Exception as error:  # whatever a wrong file can make of reading it
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}: {error}") from error


# ---------------------------------------------------------------------------------- layers


def _layer_to_json(layer: nn.Module, name: str, arrays: dict) -> dict:
    found = special(layer, inner=False)
    if found is not None:
        raise InputError(f"cannot save a layer of the type {type(layer).__name__} with {found}: a file holds "
                         "settings and numbers only.")
    if type(layer) is nn.Sequential:
        return {"sequence": {child: _layer_to_json(module, f"{name}.{child}", arrays)
                             for child, module in layer._modules.items()}}  # one may be there twice
    if isinstance(layer, CompiledNetwork):
        return {"network": _network_to_json(layer, name, arrays)}
    if type(layer) not in LAYERS:
        raise InputError(f"cannot save a layer of the type {type(layer).__name__}; known are "
                         f"{', '.join(sorted(BY_NAME))}.")
    # copies: a layer that is there twice would share its memory
    arrays.update({f"{name}.{key}": value.clone(memory_format=torch.contiguous_format)
                   for key, value in layer.state_dict().items()})
    return {"layer": type(layer).__name__,
            "settings": {key: getattr(layer, key) for key in LAYERS[type(layer)]}}


def _layer_from_json(entry: dict, name: str, arrays: dict) -> nn.Module:
    if "sequence" in entry:
        sequence = nn.Sequential()
        for child, module in entry["sequence"].items():
            sequence.add_module(child, _layer_from_json(module, f"{name}.{child}", arrays))
        return sequence
    if "network" in entry:
        return _network_from_json(entry["network"], name, arrays)
    kind, settings = BY_NAME[entry["layer"]], entry["settings"]
    if not set(settings) <= set(LAYERS[kind]):
        raise ValueError(f"settings {sorted(settings)} of {kind.__name__}")
    for key, value in settings.items():
        _check_setting(key, value)
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    state = {key[len(name) + 1:]: value for key, value in arrays.items() if key.startswith(name + ".")}
    if kind in (nn.Conv2d, nn.Linear):
        settings["bias"] = "bias" in state
    with torch.device("meta"):  # nothing is allocated for sizes that no array of the file has
        layer = kind(**settings)
    layer.load_state_dict(state, strict=True, assign=True)
    for key, value in layer.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"{name}.{key} is not finite")
    return layer.requires_grad_(False).eval()


def _check_setting(key: str, value: object) -> None:
    """Settings are numbers of pixels or channels, a name, a small number or a truth value."""
    if key == "eps":
        fine = type(value) is float and 0 < value < 1
    elif key in ("affine", "track_running_stats"):
        fine = type(value) is bool
    elif key == "padding_mode":
        fine = value in ("zeros", "reflect", "replicate", "circular")
    elif key == "padding" and isinstance(value, str):
        fine = value in ("same", "valid")
    else:
        numbers = value if isinstance(value, list) else [value]
        least = {"padding": 0, "start_dim": -9, "end_dim": -9}.get(key, 1)
        fine = 0 < len(numbers) <= 2 and all(type(n) is int and least <= n < LARGEST for n in numbers)
    if not fine:
        raise ValueError(f"the setting {key} is {value!r}")


# ---------------------------------------------------------------------------------- plans


def _network_to_json(network: CompiledNetwork, name: str, arrays: dict) -> list[dict]:
    storage = {} if network.storage is None else {"storage": str(network.storage).removeprefix("torch.")}
    return [{**_plan_to_json(plan, f"{name}.{number}", arrays), **storage} for number, plan in enumerate(network.plans)]


def _network_from_json(entries: list[dict], name: str, arrays: dict) -> CompiledNetwork:
    storages = {entry.get("storage") for entry in entries}
    if len(storages) != 1:
        raise ValueError(f"storages {storages}")
    return CompiledNetwork(*(_plan_from_json(entry, f"{name}.{number}", arrays) for number, entry in enumerate(entries)),
                           storage=STORAGES[storages.pop()])


def _plan_to_json(plan: Plan, name: str, arrays: dict) -> dict:
    def keep(key: str, value: np.ndarray | None) -> bool:
        if value is not None:
            arrays[f"{name}.{key}"] = torch.from_numpy(np.ascontiguousarray(value))
        return value is not None

    for key in ("src", "dst", "weight"):
        keep(key, getattr(plan, key))

    def group_to_json(place: str, group: Group) -> dict:
        for key in ARRAYS:
            keep(f"{place}.{key}", getattr(group, key))
        steps = []
        for number, step in enumerate(group.steps):
            values = {f.name: getattr(step, f.name) for f in fields(step)}
            for key, value in values.items():
                if isinstance(value, np.ndarray):
                    keep(f"{place}.{number}.{key}", value)
            steps.append({"kind": step.kind, **{key: value for key, value in values.items()
                                                if not isinstance(value, np.ndarray)}})
        return {"level": group.level, "kind": group.kind, "scale": group.scale, "steps": steps}

    return {"dtype": str(plan.dtype).removeprefix("torch."), "num_inputs": plan.num_inputs,
            "num_outputs": plan.num_outputs, "output_scale": plan.output_scale, "dims": plan.dims,
            **{which: [group_to_json(f"{which}.{number}", group)
                       for number, group in enumerate(getattr(plan, which))]
               for which in ("before", "groups")}}


def _plan_from_json(entry: dict, name: str, arrays: dict) -> Plan:
    dtype = {"float32": torch.float32, "float64": torch.float64}[entry["dtype"]]

    def array(key: str) -> Any:  # None where there is none, which is checked at last
        value = arrays.get(f"{name}.{key}")
        return None if value is None else value.numpy()

    def read_step(place: str, e: dict) -> Lowered:
        kind = LOWERED[e["kind"]]
        values = {f.name: e.get(f.name, array(f"{place}.{f.name}")) for f in fields(kind)}
        return kind(**values)

    def group(place: str, e: dict) -> Group:
        if "parts" in e:
            steps = [step for number, part in enumerate(e["parts"])
                     for step in _from_part(part, f"{place}.{number}", array)]
        else:
            steps = [read_step(f"{place}.{number}", inner) for number, inner in enumerate(e["steps"])]
        return Group(e["level"], array(f"{place}.nodes"), e["kind"], e["scale"], steps,
                     array(f"{place}.channels"), array(f"{place}.outputs"))

    return checked(Plan(
        dtype, entry["num_inputs"], entry["num_outputs"], entry["output_scale"],
        groups=[group(f"groups.{n}", e) for n, e in enumerate(entry["groups"])],
        src=array("src"), dst=array("dst"), weight=array("weight"),
        before=[group(f"before.{n}", e) for n, e in enumerate(entry["before"])], dims=entry.get("dims", 2)))


def _from_part(part: dict, place: str, array) -> Iterator[Lowered]:
    """The steps of a part of format 2: a norm, an activation and a kernel, each optional."""
    count = len(array(place.rsplit(".", 1)[0] + ".nodes"))
    if part["norm"] == "affine":
        yield Affine(array(f"{place}.scale"), array(f"{place}.shift"))
    elif part["norm"]:
        yield {"instance": Normalize}[part["norm"]](array(f"{place}.scale"), array(f"{place}.shift"), EPSILON)
    if part["activation"] != "identity":
        yield Pointwise(part["activation"], np.zeros((count, 0), np.float32))
    kernel = array(f"{place}.kernel")
    if kernel is not None:
        yield Convolve(kernel, part["stride"], part["zero_pad"])
    elif part["stride"] != 1:
        raise ValueError("a stride without a kernel")


def _number(value, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
        raise ValueError(f"expected an integer of at least {least}, got {value!r}")
    return value
