"""Compiled ordinary models as JSON and arrays: steps in the order of their computation, operations of torch by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy
import torch
from torch.utils import _pytree as pytree
from torch.utils._sympy.functions import FloorDiv, Mod

from .._files import digest
from ..errors import InputError
from ..plan.capturing import is_view
from ..plan.checking_layers import checked_layers
from ..plan.layers import BATCH, Call, Convolution, Input, LayerPlan, Pool, Size, Step, aligned
from .layers import CompiledLayers
from .operations import check_call, name_of, named

KINDS: dict[type[Step], str] = {Convolution: "convolution", Pool: "pool", Call: "call"}
SETTINGS = {"convolution": ("stride", "padding", "dilation", "groups", "is_linear", "slope", "limit"),
            "pool": ("is_mean", "kernel", "stride", "padding", "divisor")}
SIZES: dict[str, type[sympy.Expr]] = {"+": sympy.Add, "*": sympy.Mul, "//": FloorDiv, "%": Mod, "max": sympy.Max,
                                      "min": sympy.Min}
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32,
    torch.int64)}
FORMATS = {str(form).removeprefix("torch."): form for form in (
    torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d)}


def layers_to_json(model: CompiledLayers, arrays: dict[str, torch.Tensor]) -> dict:
    """The entry of the header; what it refers to is put into ``arrays``."""
    writer = _Writer(model._name, arrays)
    plans = [checked_layers(plan) for plans in [*model._plans.values()] for plan in plans]
    return {"name": model._name, "torch": torch.__version__, "dtype": writer.leaf(model._dtype),
            "dtypes": [writer.leaf(dtype) for dtype in model._dtypes], "plans": [writer.plan(plan) for plan in plans]}


def layers_from_json(entry: dict, arrays: dict[str, torch.Tensor]) -> CompiledLayers:
    """The inverse of :func:`layers_to_json`.

    Raises:
        InputError: for what is no such entry, or would have anything be done that no compiled model does.
    """
    reader = _Reader(arrays, entry["dtype"])
    plans = [checked_layers(reader.plan(plan)) for plan in entry["plans"]]
    dtypes = [reader.leaf(dtype) for dtype in entry["dtypes"]]
    for plan in plans:
        if len(plan.inputs) != len(dtypes) or [len(given.shape) for given in plan.inputs] != \
                [len(given.shape) for given in plans[0].inputs]:
            raise InputError("its arguments differ")
    if not isinstance(entry["name"], str) or not plans or not all(isinstance(dtype, torch.dtype) for dtype in dtypes):
        raise InputError("it has no name, plans or types")
    return CompiledLayers._of_plans(entry["name"], dtypes, plans)


class _Writer:
    """From plans to JSON; arrays that are equal are kept once.

    Args:
        model: the name of the model, for messages.
        arrays: what is kept, by name.
    """

    def __init__(self, model: str, arrays: dict[str, torch.Tensor]):
        self.model, self.arrays = model, arrays
        self.names: dict[str, str] = {}  # by what is in them
        self.numbers: dict[Step, int] = {}

    def plan(self, plan: LayerPlan) -> dict:
        steps = [*plan.inputs, *plan.steps]
        self.numbers = {step: number for number, step in enumerate(steps)}
        return {"batch": list(plan.batch), "inputs": len(plan.inputs), "steps": [self._step(step) for step in steps],
                "outputs": [self.leaf(output, "a result") for output in plan.outputs], "tree": self._tree(plan)}

    def _step(self, step: Step) -> dict:
        entry: dict[str, Any] = {"name": step.name, "shape": [self.leaf(side, step.name) for side in step.shape]}
        if isinstance(step, Input):
            return entry
        kind = entry["kind"] = KINDS[type(step)]
        if isinstance(step, Call):
            entry["function"] = name_of(step.function)
            if entry["function"] is None:
                raise InputError(f"cannot save this {self.model}: it calls {step.function} (at {step.name!r}), which no file "
                                 "can hold. Files name operations of torch's own that read their arguments and make a "
                                 "result; put that part of the model before or behind what is compiled, or compile the model "
                                 "where it is used.")
            entry["arguments"] = self._value(step.arguments, step.name)
            entry["options"] = {key: self._value(value, step.name) for key, value in step.options.items()}
            return entry
        entry["source"] = self.numbers[step.sources[0]]
        entry.update({key: getattr(step, key) for key in SETTINGS[kind]})
        if isinstance(step, Convolution):
            entry["added"] = None if step.added is None else self.numbers[step.added]
            real = step.weight != 0
            entry["weights"] = list(step.weight.shape)
            for key, array in (("real", np.packbits(real)), ("weight", step.weight[real]), ("bias", step.bias)):
                entry[key] = self._keep(torch.from_numpy(array))
        return entry

    def _value(self, value: Any, name: str) -> Any:
        if isinstance(value, (tuple, list)):
            return [self._value(part, name) for part in value]
        return self.leaf(value, name)

    def leaf(self, value: Any, name: str = "it") -> Any:
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, Step):
            return {"step": self.numbers[value]}
        if isinstance(value, sympy.Expr):
            return {"size": self._size(value, name)}
        if isinstance(value, torch.Tensor) and value.layout == torch.strided and value.dtype in DTYPES.values():
            return {"tensor": self._keep(value)}
        for kind, known in (("dtype", DTYPES), ("memory_format", FORMATS)):
            for word, one in known.items():
                if value is one:
                    return {kind: word}
        if value in (torch.strided, torch.device("cpu")):
            return {"layout" if value is torch.strided else "device": str(value).removeprefix("torch.")}
        raise InputError(f"cannot save this {self.model}: {name!r} has {value!r}, a {type(value).__name__}, which no file can "
                         "hold.")

    def _size(self, size: sympy.Basic, name: str) -> Any:
        if size == BATCH:
            return "batch"
        if isinstance(size, sympy.Integer):
            return int(size)
        for word, kind in SIZES.items():
            if isinstance(size, kind):
                return [word, *(self._size(part, name) for part in size.args)]
        raise InputError(f"cannot save this {self.model}: {name!r} has the size {size}, which no file can hold.")

    def _tree(self, plan: LayerPlan) -> Any:
        """How results are arranged, with their numbers."""
        def written(part: Any) -> Any:
            if type(part) is int:
                return part
            if type(part) in (list, tuple):
                return {type(part).__name__: [written(inner) for inner in part]}
            if type(part) is dict and all(type(key) in (str, int) for key in part):
                return {"dict": [[key, written(inner)] for key, inner in part.items()]}
            raise InputError(f"cannot save this {self.model}: it returns a {type(part).__name__}, which no file can hold: "
                             "let it return tensors, or tuples, lists and dicts of them.")
        return written(pytree.tree_unflatten(list(range(len(plan.outputs))), plan.tree))

    def _keep(self, tensor: torch.Tensor) -> str:
        tensor = tensor.detach().contiguous()
        name = self.names.setdefault(digest({"": tensor}, size=64), str(len(self.names)))
        self.arrays.setdefault(name, tensor.clone())
        return name


class _Reader:
    """From JSON to plans.

    Args:
        arrays: what was kept, by name.
        dtype: of the layers, as JSON.
    """

    def __init__(self, arrays: dict[str, torch.Tensor], dtype: Any):
        self.arrays = {name: aligned(array) for name, array in arrays.items()}
        self.dtype = self.leaf(dtype)
        self.weights: dict[tuple, np.ndarray] = {}
        self.steps: list[Step] = []

    def plan(self, entry: dict) -> LayerPlan:
        self.steps = []
        for step in entry["steps"]:
            self.steps.append(self._step(step, is_input=len(self.steps) < entry["inputs"]))
        inputs = [step for step in self.steps if isinstance(step, Input)]
        first, last = entry["batch"]
        outputs = [self.leaf(output) for output in entry["outputs"]]
        arranged = self._tree(entry["tree"])
        order, tree = pytree.tree_flatten(arranged)
        if sorted(order) != list(range(len(outputs))):
            raise InputError("its results are not arranged")
        return LayerPlan(inputs, self.steps[len(inputs):], [outputs[number] for number in order], tree, (first, last),
                         self.dtype)

    def _step(self, entry: dict, is_input: bool) -> Step:
        name, shape = str(entry["name"]), tuple(self.leaf(side) for side in entry["shape"])
        if is_input:
            return Input(name, shape, len(self.steps))
        if entry["kind"] == "call":
            function = named(entry["function"])
            arguments = self._value(entry["arguments"])
            options = {key: self._value(value) for key, value in entry["options"].items()}
            check_call(function, arguments, options)
            return Call(name, shape, function, tuple(arguments), options, is_view(function))
        kind = {word: kind for kind, word in KINDS.items()}[entry["kind"]]
        settings: dict[str, Any] = {key: tuple(value) if isinstance(value := entry[key], list) else value
                                    for key in SETTINGS[entry["kind"]]}
        source = self._known(entry["source"])
        if kind is Pool:
            return Pool(name, shape, source, **settings)
        added = None if entry["added"] is None else self._known(entry["added"])
        return Convolution(name, shape, source, self._weight(entry["weights"], entry["real"], entry["weight"]),
                           self.arrays[entry["bias"]].numpy(), added=added, **settings)

    def _weight(self, shape: list[int], real: str, weight: str) -> np.ndarray:
        key = tuple(shape), real, weight
        if key not in self.weights:
            bits, values, size = self.arrays[real].numpy(), self.arrays[weight].numpy(), int(np.prod(shape, dtype=object))
            if bits.dtype != np.uint8 or bits.ndim != 1 or min(shape) < 1 or len(bits) != -(-size // 8):
                raise InputError("which weights are real is not known")
            mask = np.unpackbits(bits, count=size).astype(bool)
            if values.shape != (np.count_nonzero(mask),):
                raise InputError("weights differ in number from those that are real")
            whole = torch.zeros(shape, dtype=self.arrays[weight].dtype, device="cpu").numpy()
            whole.reshape(-1)[mask] = values
            self.weights[key] = whole
        return self.weights[key]

    def _known(self, number: Any) -> Step:
        if type(number) is not int or not 0 <= number < len(self.steps):
            raise InputError(f"a step reads the step {number!r}")
        return self.steps[number]

    def _value(self, value: Any) -> Any:
        return [self._value(part) for part in value] if isinstance(value, list) else self.leaf(value)

    def leaf(self, value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        (kind, content), = value.items()
        read: dict[str, Callable[[Any], Any]] = {
            "step": self._known, "tensor": self.arrays.__getitem__, "size": self._size, "dtype": DTYPES.__getitem__,
            "memory_format": FORMATS.__getitem__, "layout": {"strided": torch.strided}.__getitem__,
            "device": {"cpu": torch.device("cpu")}.__getitem__}
        return read[kind](content)

    def _size(self, value: Any) -> Size:
        if value == "batch":
            return BATCH
        if type(value) is int:
            return value
        word, *parts = value
        size = SIZES[word](*(sympy.sympify(self._size(part)) for part in parts))
        return int(size) if size.is_Integer else size

    def _tree(self, value: Any) -> Any:
        if type(value) is int:
            return value
        (kind, parts), = value.items()
        if kind == "dict":
            return {key: self._tree(part) for key, part in parts}
        return {"list": list, "tuple": tuple}[kind](self._tree(part) for part in parts)
