"""Rows in memory of other numbers than those in registers: maps may be stored in 16 bits.

How they are stored is the type of a number that functions get as ``stored``: that of the vectors themselves, int16 for the
bits of a float16, uint16 for those of a bfloat16.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .parts import inline
from .vector import FEATURES, TRIPLE, any_above, fetch_add, fill, lanes_of, larger, llvm_type, load, magnitude, narrow, size_of

LARGEST = {types.int16: 65504.0, types.uint16: 2.0**127 * (2 - 2.0**-7)}  # finite numbers


def converts_float16() -> bool:
    """Whether the processor that kernels are compiled for converts numbers of 16 bits by itself."""
    return not TRIPLE.startswith("x86") or "f16c" in FEATURES


@intrinsic
def bytes_of(typingctx, stored):
    """Of one number."""
    size = 2 if isinstance(stored, types.Integer) else stored.bitwidth // 8

    def codegen(context, builder, signature, args):
        return ir.IntType(64)(size)
    return types.int64(stored), codegen


@intrinsic
def load_as(typingctx, like, stored, address):
    """As :func:`~.vector.load`, of numbers that are stored so."""
    def codegen(context, builder, signature, args):
        kind = llvm_type(like)
        if isinstance(stored, types.Float):
            value = builder.load(builder.inttoptr(args[2], kind.as_pointer()))
            value.align = stored.bitwidth // 8
            return value
        bits = ir.VectorType(ir.IntType(16), like.lanes)
        value = builder.load(builder.inttoptr(args[2], bits.as_pointer()))
        value.align = 2
        if stored == types.int16:
            return builder.fpext(builder.bitcast(value, ir.VectorType(ir.HalfType(), like.lanes)), kind)
        wide = ir.VectorType(ir.IntType(32), like.lanes)
        return builder.bitcast(builder.shl(builder.zext(value, wide), ir.Constant(wide, [16] * like.lanes)), kind)
    return like(like, stored, types.int64), codegen


@intrinsic
def store_as(typingctx, vector, stored, address):
    """As :func:`~.vector.store`, each number rounded to the nearest that can be stored, to the even one of two."""
    def codegen(context, builder, signature, args):
        value, lanes, size = args[0], vector.lanes, vector.dtype.bitwidth // 8
        if stored == types.int16:
            value, size = builder.fptrunc(value, ir.VectorType(ir.HalfType(), lanes)), 2
        elif stored == types.uint16:
            wide = ir.VectorType(ir.IntType(32), lanes)
            bits, sixteen = builder.bitcast(value, wide), ir.Constant(wide, [16] * lanes)
            odd = builder.and_(builder.lshr(bits, sixteen), ir.Constant(wide, [1] * lanes))
            rounded = builder.add(bits, builder.add(odd, ir.Constant(wide, [0x7FFF] * lanes)))
            no_number = ir.Constant(wide, [0x7FC00000] * lanes)
            rounded = builder.select(builder.fcmp_unordered("uno", value, value), no_number, rounded)
            value, size = builder.trunc(builder.lshr(rounded, sixteen), ir.VectorType(ir.IntType(16), lanes)), 2
        builder.store(value, builder.inttoptr(args[2], value.type.as_pointer()), align=size)
        return context.get_dummy_value()
    return types.void(vector, stored, types.int64), codegen


@intrinsic
def largest_of(typingctx, stored):
    """The largest number that can be stored, which may be infinite."""
    kind = types.float32 if isinstance(stored, types.Integer) else stored

    def codegen(context, builder, signature, args):
        return context.get_value_type(kind)(LARGEST.get(stored, float("inf")))
    return kind(stored), codegen


@inline
def _kept(like, stored, x, out, length, too_large):
    s, t, lanes = size_of(narrow(like, 1)), bytes_of(stored), lanes_of(like)
    largest = fill(like, 0.0)
    for i in range(0, length, lanes):
        place = min(i, length - lanes)
        value = load(like, x + place * s)
        largest = larger(largest, magnitude(value))
        store_as(value, stored, out + place * t)
    if any_above(largest, largest_of(stored)):
        fetch_add(too_large, 1)


@inline
def keep(like, stored, x, out, length, too_large):
    """Stores numbers in other memory; where one is too large for 16 bits, the counter at ``too_large`` says so."""
    if length >= 16:
        _kept(like, stored, x, out, length, too_large)
    elif length >= 8:
        _kept(narrow(like, 8), stored, x, out, length, too_large)
    elif length >= 4:
        _kept(narrow(like, 4), stored, x, out, length, too_large)
    elif length >= 2:
        _kept(narrow(like, 2), stored, x, out, length, too_large)
    else:
        _kept(narrow(like, 1), stored, x, out, length, too_large)
