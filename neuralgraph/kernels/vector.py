"""Short vectors as a numba type, so that kernels can say what is kept in registers.

LLVM maps a vector of 16 numbers to whatever the machine has, from AVX-512 down to SSE. Addresses are
integers; nothing here checks bounds.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.core.registry import cpu_target
from numba.extending import intrinsic, register_model

from .parts import inline

TRIPLE, _, _FEATURES = cpu_target.target_context.codegen().magic_tuple()  # the processor that kernels are compiled for
FEATURES = frozenset(name[1:] for name in _FEATURES.split(",") if name.startswith("+"))


def _registers() -> int:
    """Bytes of all vector registers."""
    if "avx512f" in FEATURES:
        return 32 * 64
    return 16 * 32 if "avx" in FEATURES or TRIPLE.startswith(("aarch64", "arm64")) else 16 * 16


REGISTERS = _registers()  # sums that do not fit into them are read and written at every step


class Vector(types.Type):
    """``lanes`` numbers of a dtype."""

    def __init__(self, dtype: types.Float, lanes: int):
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"Vector({dtype}, {lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, llvm_type(fe_type))


def llvm_type(vector: Vector) -> ir.VectorType:
    return ir.VectorType(_scalar(vector.dtype), vector.lanes)


def _scalar(dtype: types.Float):
    return ir.FloatType() if dtype.bitwidth == 32 else ir.DoubleType()


def _broadcast(builder, value, lanes):
    vector = ir.VectorType(value.type, lanes)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.IntType(32)(0))
    order = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), order)


@intrinsic(prefer_literal=True)
def splat(typingctx, value, lanes):
    """The scalar ``value`` in each of ``lanes`` (a literal) places."""
    vector = Vector(value, lanes.literal_value)

    def codegen(context, builder, signature, args):
        return _broadcast(builder, args[0], vector.lanes)
    return vector(value, lanes), codegen


@intrinsic
def fill(typingctx, like, value):
    """A vector like ``like`` with the scalar ``value`` in each place."""
    def codegen(context, builder, signature, args):
        return _broadcast(builder, args[1], like.lanes)
    return like(like, like.dtype), codegen


@intrinsic
def load(typingctx, like, address):
    """The vector, of the type of ``like``, at an address."""
    def codegen(context, builder, signature, args):
        pointer = builder.inttoptr(args[1], llvm_type(like).as_pointer())
        value = builder.load(pointer)
        value.align = like.dtype.bitwidth // 8
        return value
    return like(like, types.int64), codegen


@intrinsic
def store(typingctx, vector, address):
    """Writes the vector to an address."""
    def codegen(context, builder, signature, args):
        pointer = builder.inttoptr(args[1], args[0].type.as_pointer())
        builder.store(args[0], pointer, align=vector.dtype.bitwidth // 8)
        return context.get_dummy_value()
    return types.void(vector, types.int64), codegen


@intrinsic
def load_scalar(typingctx, like, address):
    """The number, of the dtype of the vector ``like``, at an address."""
    def codegen(context, builder, signature, args):
        return builder.load(builder.inttoptr(args[1], _scalar(like.dtype).as_pointer()))
    return like.dtype(like, types.int64), codegen


@intrinsic
def load_index(typingctx, address):
    """The int32 at an address, as an integer."""
    def codegen(context, builder, signature, args):
        value = builder.load(builder.inttoptr(args[0], ir.IntType(32).as_pointer()))
        return builder.sext(value, ir.IntType(64))
    return types.int64(types.int64), codegen


@intrinsic
def fma(typingctx, a, b, c):
    """a b + c, fused where the machine can."""
    def codegen(context, builder, signature, args):
        kind = args[0].type
        name = f"llvm.fmuladd.v{a.lanes}f{a.dtype.bitwidth}"
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(kind, [kind] * 3), name)
        return builder.call(function, args)
    return a(a, a, a), codegen


def _binary(name, emit):
    @intrinsic
    def operation(typingctx, a, b):
        def codegen(context, builder, signature, args):
            return emit(builder, *args)
        return a(a, a), codegen
    operation.__doc__ = name
    return operation


add = _binary("a + b", lambda builder, a, b: builder.fadd(a, b))
sub = _binary("a - b", lambda builder, a, b: builder.fsub(a, b))
mul = _binary("a b", lambda builder, a, b: builder.fmul(a, b))
div = _binary("a / b", lambda builder, a, b: builder.fdiv(a, b))


@intrinsic
def where_positive(typingctx, condition, a, b):
    """a where ``condition`` > 0, b elsewhere (and where ``condition`` is not a number)."""
    def codegen(context, builder, signature, args):
        zero = ir.Constant(args[0].type, [0.0] * condition.lanes)
        return builder.select(builder.fcmp_ordered(">", args[0], zero), args[1], args[2])
    return a(condition, a, a), codegen


@intrinsic
def where_negative(typingctx, condition, a, b):
    """a where ``condition`` < 0, b elsewhere (and where ``condition`` is not a number)."""
    def codegen(context, builder, signature, args):
        zero = ir.Constant(args[0].type, [0.0] * condition.lanes)
        return builder.select(builder.fcmp_ordered("<", args[0], zero), args[1], args[2])
    return a(condition, a, a), codegen


@intrinsic
def larger(typingctx, a, b):
    """The larger of a and b in each place; not a number where either is not."""
    def codegen(context, builder, signature, args):
        value = builder.select(builder.fcmp_unordered(">", args[0], args[1]), args[0], args[1])
        return builder.select(builder.fcmp_unordered("uno", args[1], args[1]), args[1], value)
    return a(a, a), codegen


@intrinsic
def smaller(typingctx, a, b):
    """The smaller of a and b in each place; a where it is not a number."""
    def codegen(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered(">", args[0], args[1]), args[1], args[0])
    return a(a, a), codegen


@intrinsic
def total(typingctx, vector):
    """The sum of the lanes, by halves."""
    def codegen(context, builder, signature, args):
        value, lanes = args[0], vector.lanes
        while lanes > 1:
            half = lanes // 2
            undefined = ir.Constant(value.type, ir.Undefined)
            index = ir.VectorType(ir.IntType(32), half)
            low = builder.shuffle_vector(value, undefined, ir.Constant(index, list(range(half))))
            high = builder.shuffle_vector(value, undefined,
                                          ir.Constant(index, list(range(half, lanes))))
            value, lanes = builder.fadd(low, high), half
        return builder.extract_element(value, ir.IntType(32)(0))
    return vector.dtype(vector), codegen


def _unary(name, described):
    @intrinsic
    def operation(typingctx, a):
        def codegen(context, builder, signature, args):
            kind = args[0].type
            whole = f"llvm.{name}.v{a.lanes}f{a.dtype.bitwidth}"
            function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind]), whole)
            return builder.call(function, args)
        return a(a), codegen
    operation.__doc__ = described
    return operation


magnitude = _unary("fabs", "abs(a)")
square_root = _unary("sqrt", "The square root of a")


@intrinsic
def mark_above(typingctx, values, low, high, address):
    """Writes a byte per lane, 1 where the value is above ``high``, to an address.

    Returns 2^16 times their number plus a bit for each lane that is from ``low`` to ``high``.
    """
    def codegen(context, builder, signature, args):
        lanes, wide = values.lanes, ir.IntType(64)
        bits = ir.IntType(lanes)
        above = builder.fcmp_ordered(">", args[0], args[2])
        marks = builder.zext(above, ir.VectorType(ir.IntType(8), lanes))
        pointer = builder.inttoptr(args[3], marks.type.as_pointer())
        builder.store(marks, pointer, align=1)
        inside = builder.and_(builder.fcmp_ordered(">=", args[0], args[1]), builder.not_(above))
        number = builder.ctpop(builder.bitcast(above, bits))
        return builder.or_(builder.shl(builder.zext(number, wide), wide(16)),
                           builder.zext(builder.bitcast(inside, bits), wide))
    return types.int64(values, values, values, types.int64), codegen


@intrinsic
def any_above(typingctx, values, limit):
    """Whether any of the values is above the scalar ``limit``."""
    def codegen(context, builder, signature, args):
        above = builder.fcmp_ordered(">", args[0], _broadcast(builder, args[1], values.lanes))
        bits = ir.IntType(values.lanes)
        return builder.icmp_unsigned("!=", builder.bitcast(above, bits), bits(0))
    return types.boolean(values, values.dtype), codegen


@intrinsic
def trailing_zeros(typingctx, bits):
    """How many of the lowest bits are 0, of a number that is not 0."""
    def codegen(context, builder, signature, args):
        return builder.cttz(args[0], ir.IntType(1)(1))
    return types.int64(types.int64), codegen


@intrinsic
def rolled(typingctx):
    """Does nothing; loops around it are not unrolled.

    LLVM 22 forgets the remainder of some nests of loops that it unrolls at several levels. Every
    loop of a kernel that contains another one has this in its body.
    """
    def codegen(context, builder, signature, args):
        builder.asm(ir.FunctionType(ir.VoidType(), []), "", "", [], side_effect=True)
        return context.get_dummy_value()
    return types.void(), codegen


@intrinsic
def fetch_add(typingctx, address, value):
    """Adds to the int64 at an address, atomically; returns what was there."""
    def codegen(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", pointer, args[1], "seq_cst")
    return types.int64(types.int64, types.int64), codegen


@inline
def take_number(address):
    """The next number of the counter at an address, atomically."""
    return fetch_add(address, 1)


@intrinsic
def give_way(typingctx):
    """Lets another thread run."""
    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(ir.IntType(32), [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
        return context.get_dummy_value()
    return types.void(), codegen


@inline
def wait_for_all(address, threads):
    """Returns when ``threads`` threads have called it; ``address`` holds two int64, 0 at first."""
    turn = fetch_add(address + 8, 0)
    if fetch_add(address, 1) == threads - 1:
        fetch_add(address, -threads)
        fetch_add(address + 8, 1)
    else:
        tries = 0
        while fetch_add(address + 8, 0) == turn:
            rolled()
            tries += 1
            if tries > 2000:
                give_way()


@intrinsic
def at(typingctx, address):
    """An address as a pointer, for :func:`numba.carray`."""
    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], cgutils.voidptr_t)
    return types.voidptr(types.int64), codegen


@intrinsic
def call(typingctx, function, source, target, length, values):
    """Calls the function of four int64 at an address."""
    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * 4)
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()
    return types.void(*[types.int64] * 5), codegen


@intrinsic
def size_of(typingctx, like):
    """The bytes of a vector like ``like``."""
    size = like.lanes * like.dtype.bitwidth // 8

    def codegen(context, builder, signature, args):
        return ir.IntType(64)(size)
    return types.int64(like), codegen


@intrinsic
def lanes_of(typingctx, like):
    """The number of lanes of ``like``."""
    def codegen(context, builder, signature, args):
        return ir.IntType(64)(like.lanes)
    return types.int64(like), codegen


@inline
def room_of(like):
    """How many numbers of the dtype of ``like`` all vector registers hold."""
    return REGISTERS // size_of(narrow(like, 1))


@intrinsic(prefer_literal=True)
def narrow(typingctx, like, lanes):
    """A vector of zeros of the dtype of ``like`` with ``lanes`` (a literal) places."""
    vector = Vector(like.dtype, lanes.literal_value)

    def codegen(context, builder, signature, args):
        return ir.Constant(llvm_type(vector), [0.0] * vector.lanes)
    return vector(like, lanes), codegen


@intrinsic
def store_scalar(typingctx, like, address, value):
    """Writes a number of the dtype of ``like`` to an address."""
    def codegen(context, builder, signature, args):
        builder.store(args[2], builder.inttoptr(args[1], _scalar(like.dtype).as_pointer()))
        return context.get_dummy_value()
    return types.void(like, types.int64, like.dtype), codegen
