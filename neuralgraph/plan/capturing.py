"""From an ordinary torch model to its plan, by way of :mod:`torch.export`."""

from __future__ import annotations

import contextlib
import math
import operator
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import sympy
import torch
from torch import fx, nn

from ..errors import InputError
from .layers import BATCH, Call, Convolution, Input, LayerPlan, Pool, Size, Step, aligned, leaves, with_leaves
from .plain import evaluating

ops = torch.ops.aten
CONVOLUTIONS = (ops.conv1d.default, ops.conv2d.default, ops.conv1d.padding, ops.conv2d.padding)
POOLS = (ops.max_pool2d.default, ops.avg_pool2d.default, ops.adaptive_avg_pool2d.default, ops.mean.dim)
RECURRENT = {ops.lstm.input: 2, ops.gru.input: 2, ops.rnn_tanh.input: 2, ops.rnn_relu.input: 2}  # arguments after "train"
NORM = ops._native_batch_norm_legit_no_training.default
SAME = (ops.clone.default, ops.detach.default, ops.alias.default, ops.lift_fresh_copy.default)
LEAST = 2  # samples that a capture is made with: torch takes a size of 1 for a constant


def capture(model: nn.Module, inputs: Sequence[torch.Tensor], dtype: torch.dtype) -> LayerPlan:
    """The plan of a model in evaluation, for inputs of these shapes and any number of samples.

    Where the model treats some numbers of samples in another way, the plan holds for those alone that
    ``inputs`` stand for.

    Raises:
        InputError: for what cannot be captured: control flow that depends on numbers, changes of inputs or
            buffers, random numbers.
    """
    program, batch = _exported(model, tuple(inputs))
    signature, kind = program.graph_signature, type(model).__name__
    for changed, what in ((signature.buffers_to_mutate, "its buffer"), (signature.user_inputs_to_mutate, "its input")):
        if changed:
            raise InputError(f"cannot compile this {kind}: it changes {what} {next(iter(changed.values()))!r} in each "
                             "forward, which a compiled model does not do.")
    return _Reader(program, batch, dtype).plan()


def _exported(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[Any, tuple[int, int | None]]:
    """The program, and the numbers of samples it holds for."""
    if not hasattr(getattr(torch.export, "ExportedProgram", None), "constants"):
        raise InputError("compiling an ordinary model needs the torch.export of torch 2.3: install a newer torch.")
    kind, number = type(model).__name__, len(inputs[0])
    with evaluating(model), _no_nesting(model), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about itself
        try:
            several = tuple(x if len(x) >= LEAST else torch.cat([x] * LEAST) for x in inputs)
            batch = torch.export.Dim("batch")
            program = torch.export.export(model, several, dynamic_shapes=([{0: batch} for _ in several],)
                                          if _takes_any(model) else tuple({0: batch} for _ in several), strict=False)
            return program.run_decompositions({}), (1, None)
        except InputError:
            raise
        except Exception:  # it is not for any number of samples, or cannot be captured at all
            try:
                return torch.export.export(model, inputs, strict=False).run_decompositions({}), (number, number)
            except Exception as error:
                first = str(error).strip().splitlines() or [type(error).__name__]
                raise InputError(f"cannot compile this {kind}: torch.export cannot capture it ({type(error).__name__}: "
                                 f"{first[0]}).") from error


@contextlib.contextmanager
def _no_nesting(model: nn.Module) -> Iterator[None]:
    """Refuses an encoder that leaves out what a mask hides where it runs, but not where it is exported."""
    def check(encoder, args, options):
        mask = options.get("src_key_padding_mask", args[2] if len(args) > 2 else None)
        if mask is not None and encoder.enable_nested_tensor:
            raise InputError("cannot compile an nn.TransformerEncoder with src_key_padding_mask, which gives 0 where it hides, "
                             "depending on the mask: make it with enable_nested_tensor=False.")

    hooks = [part.register_forward_pre_hook(check, with_kwargs=True) for part in model.modules()
             if isinstance(part, nn.TransformerEncoder)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _takes_any(model: nn.Module) -> bool:
    """Whether its forward takes ``*args``."""
    code = getattr(type(model).forward, "__code__", None)
    return bool(code and code.co_flags & 0x04)


class _Reader:
    """Turns a program of ATen operations into steps."""

    def __init__(self, program, batch: tuple[int, int | None], dtype: torch.dtype):
        self.program, self.batch, self.dtype = program, batch, dtype
        self.values: dict[fx.Node, Any] = {}  # steps, constant tensors, sizes
        self.names: dict[Step, set[fx.Node]] = {}  # the operations whose result it is
        self.steps: list[Step] = []
        self.inputs: list[Input] = []
        self.symbol: sympy.Expr | None = None

    def plan(self) -> LayerPlan:
        kinds = torch.export.graph_signature.InputKind
        specs = iter(self.program.graph_signature.input_specs)
        outputs: list = []
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                spec = next(specs)
                if spec.kind == kinds.USER_INPUT:
                    self._input(node)
                else:
                    self.values[node] = self._constant(spec)
            elif node.op == "output":
                outputs = [self.values[leaf] if isinstance(leaf, fx.Node) else leaf for leaf in node.args[0]]
            elif node.op == "call_function":
                value = self.values[node] = self._call(node)
                step = value.step if isinstance(value, _Normed) else value
                if isinstance(step, Step):
                    self.names.setdefault(step, set()).add(node)
            else:
                raise InputError(f"cannot compile {node.name!r}, a {node.op} of torch.export.")
        steps = self._needed(outputs)
        for step in steps:
            if isinstance(step, Convolution):
                step.weight, step.bias = (aligned(torch.from_numpy(array)).numpy() for array in (step.weight, step.bias))
            elif isinstance(step, Call):
                step.arguments, step.options = with_leaves((step.arguments, step.options), _fixed)
        return LayerPlan(self.inputs, steps, outputs, self.program.call_spec.out_spec, self.batch, self.dtype)

    def _needed(self, outputs: list) -> list[Step]:
        """The steps that a result depends on."""
        needed: set[Step] = set()
        waiting = [output for output in outputs if isinstance(output, Step)]
        while waiting:
            step = waiting.pop()
            if step not in needed:
                needed.add(step)
                waiting += step.sources
        return [step for step in self.steps if step in needed]

    def _input(self, node: fx.Node) -> None:
        value = node.meta["val"]
        if self.batch[1] is None and isinstance(value, torch.Tensor):
            count: Any = value.shape[0]  # of samples, a torch.SymInt
            self.symbol = count.node.expr
        shape = self._shape(value) if isinstance(value, torch.Tensor) else ()
        self.inputs.append(Input(node.name, shape, len(self.inputs)))
        self.values[node] = self.inputs[-1]

    def _constant(self, spec) -> torch.Tensor:
        for store in (self.program.state_dict, self.program.constants):
            if spec.target in store:
                return store[spec.target].detach()
        raise InputError(f"cannot compile the constant {spec.target!r} of this model.")

    def _shape(self, value: torch.Tensor) -> tuple[Size, ...]:
        return tuple(self._size(side) for side in value.shape)

    def _size(self, side) -> Size:
        if isinstance(side, torch.SymInt):
            size = side.node.expr if self.symbol is None else side.node.expr.subs(self.symbol, BATCH)
            if not size.free_symbols <= {BATCH}:
                raise InputError(f"cannot compile a model in which the size of a tensor depends on numbers in others ({size}).")
            return int(size) if size.is_Integer else size
        return int(side)

    # ------------------------------------------------------------------------------ operations

    def _call(self, node: fx.Node) -> Any:
        value = node.meta.get("val")
        if isinstance(value, (torch.SymInt, int)) and not isinstance(value, bool):
            return self._size(value)
        arguments, options = (with_leaves(_plain(part), self._value) for part in (node.args, node.kwargs))
        target = node.target
        if target is operator.getitem and isinstance(arguments[0], _Normed):
            return arguments[0].step
        if draws(target, arguments, options):
            raise InputError(f"cannot compile a model that draws random numbers in evaluation ({node.name!r}, {target}).")
        step: Step | None = None
        if target in CONVOLUTIONS:
            step = self._convolution(node, *arguments, **options)
        elif target == ops.linear.default:
            step = self._linear(node, *arguments, **options)
        elif target in POOLS:
            step = self._pool(node, target, *arguments, **options)
        elif target == NORM:
            return self._norm(node, arguments)
        elif target == ops.add.Tensor and not options and (sum_ := self._sum(node, *arguments)) is not None:
            return sum_
        elif target in SAME and isinstance(arguments[0], Convolution):
            return arguments[0]
        elif isinstance(arguments[0] if arguments else None, Convolution):
            activation = _activation(target, arguments[1:], options)
            if activation is not None and self._is_only(arguments[0], node) and arguments[0].is_linear_map:
                arguments[0].slope, arguments[0].limit = activation
                return arguments[0]
        if step is None:
            step = self._torch(node, target, arguments, options)
        if isinstance(step, Step):
            self.steps.append(step)
        return step

    def _value(self, leaf: Any) -> Any:
        return self.values[leaf] if isinstance(leaf, fx.Node) else leaf

    def _is_only(self, step: Step, node: fx.Node) -> bool:
        """Whether this operation alone reads a tensor, by whatever name."""
        names = self.names.get(step, set())
        return {reader for name in names for reader in name.users} - names == {node}

    def _torch(self, node: fx.Node, target, arguments: tuple, options: dict) -> Any:
        """A call of torch, or its result where that is known now."""
        call = Call(node.name, self._shape(value) if isinstance(value := node.meta.get("val"), torch.Tensor) else (),
                    target, arguments, options, is_view(target))
        varies = any(isinstance(leaf, (Step, sympy.Expr)) for leaf in leaves((arguments, options)))
        if varies or not isinstance(value, torch.Tensor):
            return call
        with torch.no_grad():
            return target(*arguments, **options)

    def _convolution(self, node, source, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> Step | None:
        if not isinstance(source, Step) or not _is_known(weight, bias) or weight.dtype != self.dtype:
            return None
        dims = weight.dim() - 2
        if len(source.shape) != dims + 2 or not _is_numbers(source.shape[1:]):
            return None
        kernel = weight.shape[2:]
        stride, dilation = _sides(stride, dims), _sides(dilation, dims)
        if padding == "same":
            before = tuple(d * (k - 1) // 2 for d, k in zip(dilation, kernel))
        else:
            before = _sides(0 if padding == "valid" else padding, dims)
        if dims == 1:
            weight, stride, dilation, before = weight[:, :, None], (1, *stride), (1, *dilation), (0, *before)
        return Convolution(node.name, self._shape(node.meta["val"]), source, _array(weight), _bias(bias, weight),
                           _pair(stride), _pair(before), _pair(dilation), groups)

    def _linear(self, node, source, weight, bias=None) -> Step | None:
        if not isinstance(source, Step) or not _is_known(weight, bias) or weight.dtype != self.dtype or weight.dim() != 2:
            return None
        return Convolution(node.name, self._shape(node.meta["val"]), source, _array(weight[:, :, None, None]),
                           _bias(bias, weight), is_linear=True)

    def _pool(self, node, target, source, kernel, stride=(), *settings, **options) -> Step | None:
        """A pooling of maps; None where it is one that stays with torch."""
        shape = self._shape(node.meta["val"])
        if not isinstance(source, Step) or len(source.shape) != 4 or not _is_numbers(source.shape[1:]) or options or \
                node.meta["val"].dtype != self.dtype:
            return None
        sides: tuple[int, int] = source.shape[2:]
        if target == ops.mean.dim:
            if sorted(axis % 4 for axis in kernel) != [2, 3]:
                return None
            return Pool(node.name, shape, source, True, sides, sides)
        kernel = _pair(_sides(kernel, 2))
        if target == ops.adaptive_avg_pool2d.default:
            return Pool(node.name, shape, source, True, sides, sides) if kernel == (1, 1) else None
        stride = _pair(_sides(stride, 2)) if len(_sides(stride, 2)) else kernel
        padding = _pair(_sides(settings[0], 2)) if settings else (0, 0)
        if target == ops.max_pool2d.default:
            plain = [(1, 1), False]  # dilation, ceil_mode
            given = [_sides(settings[1], 2) if len(settings) > 1 else (1, 1), *settings[2:]]
            return Pool(node.name, shape, source, False, kernel, stride, padding) if given == plain[:len(given)] else None
        rest: list[Any] = [*settings[1:], *[False, True, None][len(settings[1:]):]]
        ceil, counts_padding, divisor = rest
        if ceil:
            return None
        return Pool(node.name, shape, source, True, kernel, stride, padding,
                    divisor or (math.prod(kernel) if counts_padding else 0))

    def _norm(self, node: fx.Node, arguments: tuple) -> Any:
        """A batch norm: folded into the convolution before it, or a scale and a shift of each channel."""
        source, weight, bias, mean, variance, _, epsilon = arguments
        if not isinstance(source, Step) or not _is_known(mean, variance) or not _is_known(mean, weight, bias):
            return self._torch(node, node.target, arguments, {})
        scale = (variance.double() + epsilon).rsqrt()
        if weight is not None:
            scale = scale * weight.double()
        shift = -mean.double() * scale + (0 if bias is None else bias.double())
        if isinstance(source, Convolution) and self._is_only(source, node) and source.added is None and \
                source.is_linear_map and not source.is_linear:
            factor = scale.numpy()
            source.weight = (source.weight * factor[:, None, None, None]).astype(source.weight.dtype)
            source.bias = (source.bias * factor + shift.numpy()).astype(source.bias.dtype)
            return _Normed(source)
        sides = (1, -1, *[1] * (len(source.shape) - 2))
        scale, shift = scale.to(mean.dtype).view(sides), shift.to(mean.dtype).view(sides)
        step = Call(node.name, source.shape, scaled, (source, scale, shift), {}, False)
        self.steps.append(step)
        return _Normed(step)

    def _sum(self, node: fx.Node, first: Any, second: Any) -> Convolution | None:
        """A sum as part of the convolution that comes last of the two; None if it cannot be."""
        if not isinstance(first, Step) or not isinstance(second, Step) or first is second or first.shape != second.shape:
            return None
        fit = [(self.steps.index(step), step, other) for step, other in ((first, second), (second, first))
               if isinstance(step, Convolution) and step.added is None and step.is_linear_map and
               self._is_only(step, node)]
        if not fit:
            return None
        place, step, other = max(fit, key=lambda found: found[0])
        step.added = other
        self.steps.remove(step)  # behind what it adds
        self.steps.append(step)
        return step


def _fixed(leaf: Any) -> Any:
    return aligned(leaf) if isinstance(leaf, torch.Tensor) else leaf


class _Normed:
    """The several results of a batch norm, of which only the first is read."""

    def __init__(self, step: Step):
        self.step = step


def scaled(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """A norm with running statistics."""
    return torch.addcmul(shift, x, scale)


def _activation(target, settings: tuple, options: dict) -> tuple[float, float] | None:
    """The slope below 0 and the largest result of an activation; None for others, which torch computes."""
    if target == ops.relu.default:
        return 0.0, math.inf
    if target == ops.leaky_relu.default and not options:
        return (float(settings[0]) if settings else 0.01), math.inf
    if target == ops.hardtanh.default and len(settings) == 2 and settings[0] == 0 and settings[1] >= 0:
        return 0.0, float(settings[1])
    return None


def _is_numbers(sides: Sequence[Size]) -> bool:
    return all(isinstance(side, int) for side in sides)


def draws(target, arguments: tuple, options: dict) -> bool:
    """Whether an operation draws random numbers."""
    return torch.Tag.nondeterministic_seeded in getattr(target, "tags", ()) and \
        not _is_without_dropout(target, arguments, options)


def _is_without_dropout(target, arguments: tuple, options: dict) -> bool:
    """Whether an operation that may drop values at random drops none."""
    if target == ops.scaled_dot_product_attention.default:
        return not (arguments[4] if len(arguments) > 4 else options.get("dropout_p", 0.0))
    if target in RECURRENT:
        return not arguments[-1 - RECURRENT[target]]
    return target == ops.dropout.default and not arguments[2]


def is_view(target) -> bool:
    """Whether the result of an operation may share memory with an argument."""
    schema = getattr(target, "_schema", None)
    return target is not scaled if schema is None else any(result.alias_info is not None for result in schema.returns)


def _is_known(*tensors) -> bool:
    return all(tensor is None or isinstance(tensor, torch.Tensor) for tensor in tensors)


def _sides(value, dims: int) -> tuple[int, ...]:
    sides = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return sides * dims if len(sides) == 1 else sides


def _pair(sides: tuple[int, ...]) -> tuple[int, int]:
    height, width = sides
    return height, width


def _array(tensor: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().cpu().numpy())


def _bias(bias: torch.Tensor | None, weight: torch.Tensor) -> np.ndarray:
    return np.zeros(len(weight), _array(weight[:0]).dtype) if bias is None else _array(bias)


def _plain(value: Any) -> Any:
    """Without the lists and dicts of fx, which cannot be changed."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(_plain(part) for part in value)
    return [_plain(part) for part in value] if isinstance(value, list) else value
