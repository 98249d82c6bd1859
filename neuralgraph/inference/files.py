"""Compiled models as files: numbers as safetensors, their arrangement as JSON, no code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save as to_bytes
from torch import nn

from .._files import read_tensors, replace
from ..errors import CheckpointError, InputError
from ..models.tiny import CentrePool, GlobalPool
from ..wiring import ACTIVATIONS
from .compiling import CompiledModel
from .engine import CompiledNetwork
from .plan import Group, Part, Plan

FORMAT = 2
LAYERS: dict[type[nn.Module], tuple[str, ...]] = {  # layers of stems and heads, and their settings
    nn.Conv2d: ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups",
                "padding_mode"),
    nn.BatchNorm2d: ("num_features", "eps"),
    nn.Linear: ("in_features", "out_features"),
    nn.AdaptiveAvgPool2d: ("output_size",),
    nn.Flatten: ("start_dim", "end_dim"), nn.ReLU: (), GlobalPool: (), CentrePool: (),
}
BY_NAME = {layer.__name__: layer for layer in LAYERS}
ARRAYS = {"nodes": np.int64, "channels": np.int64, "outputs": np.int64}


def save(model: CompiledModel | CompiledNetwork, path: str | Path) -> None:
    """Writes a compiled network or classifier to a file, whole or not at all.

    Raises:
        InputError: for another module, or one with layers that have no form as data.
    """
    path, arrays = Path(path), {}
    if isinstance(model, CompiledNetwork):
        header = {"network": _network_to_json(model, "network", arrays)}
    elif isinstance(model, CompiledModel):
        header = {"in_channels": model.in_channels, "image_size": model.image_size,
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
        if header["format"] != FORMAT:
            raise CheckpointError(f"{path} has the format {header['format']!r}; this version of "
                                  f"neuralgraph reads format {FORMAT}.")
        network = _network_from_json(header["network"], "network", arrays)
        if "stem" not in header:
            return network.eval()
        return CompiledModel(_layer_from_json(header["stem"], "stem", arrays), network,
                             _layer_from_json(header["head"], "head", arrays),
                             in_channels=_number(header["in_channels"]),
                             image_size=_number(header["image_size"]))
    except CheckpointError:
        raise
    except Exception as error:  # whatever a wrong file can make of reading it
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}: {error}") from error


# ---------------------------------------------------------------------------------- layers


def _layer_to_json(layer: nn.Module, name: str, arrays: dict) -> dict:
    if type(layer) is nn.Sequential:
        return {"sequence": {child: _layer_to_json(module, f"{name}.{child}", arrays)
                             for child, module in layer._modules.items()}}  # one may be there twice
    if isinstance(layer, CompiledNetwork):
        return {"network": _network_to_json(layer, name, arrays)}
    if type(layer) not in LAYERS:
        raise InputError(f"cannot save a layer of the type {type(layer).__name__}; known are "
                         f"{', '.join(sorted(BY_NAME))}.")
    arrays.update({f"{name}.{key}": value.contiguous() for key, value in layer.state_dict().items()})
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
    if set(settings) != set(LAYERS[kind]):
        raise ValueError(f"settings {sorted(settings)} of {kind.__name__}")
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    state = {key[len(name) + 1:]: value for key, value in arrays.items() if key.startswith(name + ".")}
    if kind in (nn.Conv2d, nn.Linear):
        settings["bias"] = "bias" in state
    with torch.device("meta"):  # nothing is allocated for sizes that no array of the file has
        layer = kind(**settings)
    layer.load_state_dict(state, strict=True, assign=True)
    return layer.requires_grad_(False).eval()


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
        parts = []
        for number, part in enumerate(group.parts):
            for key in ("scale", "shift", "kernel"):
                keep(f"{place}.{number}.{key}", getattr(part, key))
            parts.append({"norm": part.norm, "activation": part.activation, "stride": part.stride,
                          "zero_pad": part.zero_pad})
        return {"level": group.level, "kind": group.kind, "scale": group.scale, "parts": parts}

    return {"dtype": str(plan.dtype).removeprefix("torch."), "num_inputs": plan.num_inputs,
            "num_outputs": plan.num_outputs, "output_scale": plan.output_scale,
            **{which: [group_to_json(f"{which}.{number}", group)
                       for number, group in enumerate(getattr(plan, which))]
               for which in ("before", "groups")}}


def _plan_from_json(entry: dict, name: str, arrays: dict) -> Plan:
    dtype = {"float32": torch.float32, "float64": torch.float64}[entry["dtype"]]
    real = np.float32 if dtype == torch.float32 else np.float64

    def array(key: str, kind=real) -> np.ndarray | None:
        value = arrays.get(f"{name}.{key}")
        if value is not None and value.numpy().dtype != kind:
            raise ValueError(f"{key} is {value.dtype}")
        return None if value is None else value.numpy()

    def group(place: str, e: dict) -> Group:
        parts = [Part(_one_of(p["norm"], ("", "affine", "instance")), array(f"{place}.{number}.scale"),
                      array(f"{place}.{number}.shift"), _one_of(p["activation"], ACTIVATIONS),
                      array(f"{place}.{number}.kernel"), _number(p["stride"]), bool(p["zero_pad"]))
                 for number, p in enumerate(e["parts"])]
        return Group(_number(e["level"], 0), array(f"{place}.nodes", np.int64),
                     _one_of(e["kind"], ("input", "sum", "product")), _number(e["scale"]), parts,
                     array(f"{place}.channels", np.int64), array(f"{place}.outputs", np.int64))

    plan = Plan(dtype, *(_number(entry[key]) for key in ("num_inputs", "num_outputs", "output_scale")),
                groups=[group(f"groups.{n}", e) for n, e in enumerate(entry["groups"])],
                src=array("src", np.int64), dst=array("dst", np.int64), weight=array("weight"),
                before=[group(f"before.{n}", e) for n, e in enumerate(entry["before"])])
    _check(plan)
    return plan


def _check(plan: Plan) -> None:
    """Refuses a plan that would make a kernel read or write where it must not."""
    def must(holds: bool, what: str) -> None:
        if not holds:
            raise ValueError(what)

    src, dst = plan.src, plan.dst
    groups = [*plan.before, *plan.groups]
    must(all(a is not None and a.ndim == 1 for a in (src, dst, plan.weight)), "edges are missing")
    must(len(src) == len(dst) == len(plan.weight), "edges differ in number")
    must(all(g.nodes is not None and g.nodes.ndim == 1 and len(g.nodes) for g in groups), "no nodes")
    every = np.concatenate([g.nodes for g in groups]) if groups else np.zeros(0, np.int64)
    count = len(every)
    must(len(np.unique(every)) == count and bool((every >= 0).all()), "nodes are not distinct")
    most = 10 * (count + len(src)) + 10**6  # numbers of nodes may have gaps, but not any
    must(not count or every.max() < most, "numbers of nodes are too large")
    must(bool(np.isin(src, every).all() and np.isin(dst, every).all()), "an edge ends nowhere")
    must(bool((np.diff(dst) >= 0).all()), "edges are not sorted")
    size = int(every.max()) + 1 if count else 0
    must(len(np.unique(dst * size + src)) == len(src), "an edge is there twice")
    results = [g.outputs for g in groups if g.outputs is not None]
    must(len(np.unique(np.concatenate(results))) == sum(map(len, results)) if results else True,
         "an output is there twice")
    level, enters, leaves, is_before, is_read = (np.zeros(size, np.int64) for _ in range(5))
    for g in groups:
        level[g.nodes], enters[g.nodes], leaves[g.nodes] = g.level, g.scale, g.scale * g.stride
        is_before[g.nodes] = any(g is b for b in plan.before)
        is_read[g.nodes] = g.outputs is not None
        if g.kind == "input":
            _check_channels(g.channels, len(g.nodes), plan.num_inputs)
            must(g.scale == 1 and not is_before[g.nodes].any(), "inputs in a wrong place")
            must(not np.isin(dst, g.nodes).any(), "an edge ends in an input")
        if g.outputs is not None:
            _check_channels(g.outputs, len(g.nodes), plan.num_outputs)
            must(g.scale * g.stride == plan.output_scale, "outputs differ in size")
            must(not is_before[g.nodes].any(), "outputs in a wrong place")
        for part in g.parts:
            for value in (part.scale, part.shift):
                must(value is None if not part.norm else value is not None
                     and value.shape == (len(g.nodes),), "a norm does not fit its nodes")
            kernel = part.kernel
            must(kernel is None or kernel.ndim == 3 and kernel.shape[0] == len(g.nodes)
                 and kernel.shape[1] == kernel.shape[2] and kernel.shape[1] % 2 == 1,
                 "a kernel does not fit its nodes")
            must(part.stride == 1 or kernel is not None, "a stride without a kernel")
    for which in (plan.before, plan.groups):
        must(all(a.level <= b.level for a, b in zip(which, which[1:])), "levels are not sorted")
    must(bool((leaves[src] == enters[dst]).all()), "maps differ in size")
    must(not is_read[src].any(), "an output is read by a node")
    earlier = np.where(is_before[dst] == is_before[src], level[src] < level[dst], is_before[src] == 1)
    must(bool(earlier.all()), "a node is read before it is computed")


def _check_channels(channels, number: int, most: int) -> None:
    if channels is None or channels.shape != (number,) or (channels < 0).any() or (channels >= most).any():
        raise ValueError("channels do not fit")


def _number(value, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
        raise ValueError(f"expected an integer of at least {least}, got {value!r}")
    return value


def _one_of(value, known):
    if value not in known:
        raise ValueError(f"unknown {value!r}")
    return value
