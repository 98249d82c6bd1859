"""Compiled models as files: numbers as safetensors, their arrangement as JSON, no code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as to_bytes
from torch import nn

from .._files import read_tensors, replace
from ..errors import CheckpointError, InputError, NeuralGraphError
from ..models import Preprocessing
from ..models.tiny import CentrePool, GlobalPool
from ..nodes import EPSILON, LOWERED, Affine, Convolve, Lowered, Normalize, Pointwise
from ..plan import Group, Plan, checked, special
from .compiling import CompiledModel
from .engine import CompiledNetwork

FORMAT = 3
READABLE = (2, 3)  # in format 2 steps stood together as parts
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
ARRAYS = {"nodes": np.int64, "channels": np.int64, "outputs": np.int64}


def save(model: CompiledModel | CompiledNetwork, path: str | Path) -> None:
    """Writes a compiled network or classifier to a file, whole or not at all.

    Raises:
        InputError: for another module, or one with layers that have no form as data.
    """
    path = Path(path)
    arrays: dict[str, torch.Tensor] = {}
    header: dict[str, object]
    if isinstance(model, CompiledNetwork):
        header = {"network": _network_to_json(model, "network", arrays)}
    elif isinstance(model, CompiledModel):
        known = model.preprocessing
        header = {"in_channels": model.in_channels, "image_size": model.image_size,
                  "preprocessing": None if known is None else known.to_json(),
                  "stem": _layer_to_json(model.stem, "stem", arrays),
                  "network": _network_to_json(model.network, "network", arrays),
                  "head": _layer_to_json(model.head, "head", arrays)}
    else:
        raise InputError(f"expected what neuralgraph.compile made of a network or classifier, got "
                         f"{type(model).__name__}; of another module save its compiled networks.")
    header = {"format": FORMAT, **header}
    content = to_bytes(arrays, metadata={"neuralgraph compiled": json.dumps(header)})
    try:
        replace(path, content)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}.") from error


def load(path: str | Path) -> CompiledModel | CompiledNetwork:
    """Reads what :func:`save` wrote.

    Raises:
        CheckpointError: if the file is missing, damaged, foreign or of another version. Nothing in it
            is run, and every number that becomes an address is checked.
    """
    path = Path(path)
    arrays, metadata = read_tensors(path, "file")
    if "neuralgraph compiled" not in metadata:
        raise CheckpointError(f"{path} is no compiled model of neuralgraph.")
    try:
        header = json.loads(metadata["neuralgraph compiled"])
        if header["format"] not in READABLE:
            newer = isinstance(header["format"], int) and header["format"] > FORMAT
            raise CheckpointError(f"{path} has the format {header['format']!r}; this version of "
                                  f"neuralgraph reads {' and '.join(map(str, READABLE))}"
                                  + (": a newer one wrote it." if newer else "."))
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
        raise CheckpointError(f"{path} cannot be used: {error}") from error
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
    return [_plan_to_json(plan, f"{name}.{number}", arrays) for number, plan in enumerate(network.plans)]


def _network_from_json(entries: list[dict], name: str, arrays: dict) -> CompiledNetwork:
    return CompiledNetwork(*(_plan_from_json(entry, f"{name}.{number}", arrays)
                             for number, entry in enumerate(entries)))


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
