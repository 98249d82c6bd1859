"""What moves numbers between the lanes of vectors."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .parts import inline
from .vector import llvm_type


@intrinsic
def repeated(typingctx, like, vector):
    """The numbers of a vector over and over, or as many of the first as ``like`` has lanes."""
    def codegen(context, builder, signature, args):
        order = [lane % vector.lanes for lane in range(like.lanes)]
        index = ir.Constant(ir.VectorType(ir.IntType(32), like.lanes), order)
        return builder.shuffle_vector(args[1], ir.Constant(args[1].type, ir.Undefined), index)
    return like(like, vector), codegen


@intrinsic
def transpose(typingctx, like, source, source_row, target, target_row):
    """A square of as many rows as ``like`` has lanes, transposed from one address to another; rows are bytes apart.

    In stages: after the one of k, blocks of k by k lanes have changed places across the diagonal of blocks of 2 k.
    """
    def codegen(context, builder, signature, args):
        lanes, size, kind = like.lanes, like.dtype.bitwidth // 8, llvm_type(like)
        index = ir.VectorType(ir.IntType(32), lanes)

        def place(base, row, number):
            return builder.inttoptr(builder.add(base, builder.mul(row, ir.IntType(64)(number))), kind.as_pointer())

        rows = []
        for number in range(lanes):
            value = builder.load(place(args[1], args[2], number))
            value.align = size
            rows.append(value)
        k = 1
        while k < lanes:
            low = ir.Constant(index, [lane if not lane & k else lanes + lane - k for lane in range(lanes)])
            high = ir.Constant(index, [lane + k if not lane & k else lanes + lane for lane in range(lanes)])
            for number in range(lanes):
                if not number & k:
                    a, b = rows[number], rows[number + k]
                    rows[number], rows[number + k] = builder.shuffle_vector(a, b, low), builder.shuffle_vector(a, b, high)
            k *= 2
        for number, value in enumerate(rows):
            builder.store(value, place(args[3], args[4], number), align=size)
        return context.get_dummy_value()
    return types.void(like, *[types.int64] * 4), codegen


@intrinsic
def first(typingctx, vector):
    """The number in the first lane."""
    def codegen(context, builder, signature, args):
        return builder.extract_element(args[0], ir.IntType(32)(0))
    return vector.dtype(vector), codegen


@intrinsic(prefer_literal=True)
def rotated(typingctx, vector, places):
    """Each number so many ``places`` (a literal) before, the first at the end."""
    number = places.literal_value

    def codegen(context, builder, signature, args):
        order = [(lane + number) % vector.lanes for lane in range(vector.lanes)]
        index = ir.Constant(ir.VectorType(ir.IntType(32), vector.lanes), order)
        return builder.shuffle_vector(args[0], ir.Constant(args[0].type, ir.Undefined), index)
    return vector(vector, places), codegen


@intrinsic(prefer_literal=True)
def _every_second(typingctx, a, b, size, first):
    number, begin = size.literal_value, first.literal_value

    def codegen(context, builder, signature, args):
        # a size above the lanes never comes, but is compiled
        places = [((lane // number * 2 + begin) * number + lane % number) % (2 * a.lanes) for lane in range(a.lanes)]
        order = ir.Constant(ir.VectorType(ir.IntType(32), a.lanes), places)
        return builder.shuffle_vector(args[0], args[1], order)
    return a(a, a, size, first), codegen


@inline
def evens(like, a, b, size):
    """Every second group of ``size`` numbers, 1, 2, 4 or 8 and no more than lanes, of a and then b."""
    if size == 1:
        return _every_second(a, b, 1, 0)
    if size == 2:
        return _every_second(a, b, 2, 0)
    if size == 4:
        return _every_second(a, b, 4, 0)
    return _every_second(a, b, 8, 0)


@inline
def odds(like, a, b, size):
    """The groups between those of :func:`evens`."""
    if size == 1:
        return _every_second(a, b, 1, 1)
    if size == 2:
        return _every_second(a, b, 2, 1)
    if size == 4:
        return _every_second(a, b, 4, 1)
    return _every_second(a, b, 8, 1)


@intrinsic
def lane_numbers(typingctx, like):
    """0, 1, 2, ..."""
    def codegen(context, builder, signature, args):
        return ir.Constant(llvm_type(like), [float(lane) for lane in range(like.lanes)])
    return like(like), codegen
