"""Products of float32 rows on the matrix units of a CPU (AMX of x86), which multiply bfloat16 and add in float32.

A number is there as the nearest bfloat16, of 8 bits, or as the sum of two, high + low, of 16 bits, of which x y is taken as
high_x high_y + high_x low_y + low_x high_y. Which of them may be is what :func:`torch.set_float32_matmul_precision` says.
"""

from __future__ import annotations

import ctypes
import platform
import sys

import numpy as np
import torch
from llvmlite import binding, ir
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

from .._torch import is_compiling
from .launch import Kernel
from .parts import inline
from .record import record
from .rows import channel_rows
from .vector import FEATURES, at, load, load_scalar, rolled, splat, store, store_scalar, sub, take_number

TILE = 16      # rows of a tile, each of 64 bytes: 16 float32 or 32 bfloat16
STEP = 32      # bfloat16 of a row of a tile
BYTES = 1024   # of a tile
CHUNK = 256    # numbers of each row that are multiplied at a time
PANEL = 512    # columns of the result that are computed at a time, so that what they read stays in the second cache

PRODUCTS = record("batch length chunks x x_sample x_row rows y y_sample y_row columns out out_row out_group terms groups "
                  "scratch scratch_size configuration")
SYSCALL_ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA = 158, 0x1023, 18


def _available() -> bool:
    """Whether this CPU has matrix units for bfloat16, and the system lets this process use them."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    if not {"amx-bf16", "amx-tile", "avx512bf16", "avx512vl"} <= FEATURES:
        return False
    binding.initialize_native_asmparser()  # for the one instruction that llvmlite has no type for
    return ctypes.CDLL(None).syscall(SYSCALL_ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA) == 0


AVAILABLE = _available()


# Tiles


def _call(builder, name, kind, *args):
    return builder.call(cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), kind), name), args)


BYTE, WIDE = ir.IntType(8), ir.IntType(64)


@intrinsic
def _configure(typingctx, address):
    """Shapes of all tiles, from 64 bytes at an address."""
    def codegen(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], BYTE.as_pointer())
        _call(builder, "llvm.x86.ldtilecfg", [pointer.type], pointer)
        return context.get_dummy_value()
    return types.void(types.int64), codegen


@intrinsic
def _release(typingctx):
    """Gives the tiles back."""
    def codegen(context, builder, signature, args):
        _call(builder, "llvm.x86.tilerelease", [])
        return context.get_dummy_value()
    return types.void(), codegen


def _moving(name, described):
    @intrinsic(prefer_literal=True)
    def operation(typingctx, tile, address, stride):
        def codegen(context, builder, signature, args):
            pointer = builder.inttoptr(args[1], BYTE.as_pointer())
            _call(builder, name, [BYTE, pointer.type, WIDE], BYTE(tile.literal_value), pointer, args[2])
            return context.get_dummy_value()
        return types.void(tile, types.int64, types.int64), codegen
    operation.__doc__ = described
    return operation


_load = _moving("llvm.x86.tileloadd64", "A tile (a literal) from rows at an address, ``stride`` bytes apart.")
_store = _moving("llvm.x86.tilestored64", "Writes a tile (a literal) to rows at an address.")


@intrinsic(prefer_literal=True)
def _multiply(typingctx, tile, a, b):
    """Adds the product of two tiles of bfloat16, the second in pairs of rows, to a tile of float32; all literals."""
    def codegen(context, builder, signature, args):
        numbers = [BYTE(one.literal_value) for one in (tile, a, b)]
        _call(builder, "llvm.x86.tdpbf16ps", [BYTE] * 3, *numbers)
        return context.get_dummy_value()
    return types.void(tile, a, b), codegen


# bfloat16


@intrinsic
def _round(typingctx, first, second, address):
    """Writes twice 16 float32 as the nearest bfloat16 to an address."""
    def codegen(context, builder, signature, args):
        kind = ir.VectorType(ir.IntType(16), 32)
        rounded = builder.asm(ir.FunctionType(kind, [args[0].type] * 2), "vcvtne2ps2bf16 $1, $2, $0", "=v,v,v", args[:2], False)
        builder.store(rounded, builder.inttoptr(args[2], kind.as_pointer()), align=2)
        return context.get_dummy_value()
    return types.void(first, second, types.int64), codegen


@intrinsic
def _widen(typingctx, like, address):
    """16 bfloat16 at an address, as float32."""
    def codegen(context, builder, signature, args):
        half, whole = ir.VectorType(ir.IntType(16), 16), ir.VectorType(ir.IntType(32), 16)
        bits = builder.load(builder.inttoptr(args[1], half.as_pointer()), align=2)
        return builder.bitcast(builder.shl(builder.zext(bits, whole), ir.Constant(whole, [16] * 16)), args[0].type)
    return like(like, types.int64), codegen


@intrinsic
def _transpose(typingctx, address):
    """Transposes the 16 x 16 pairs of numbers of a tile at an address."""
    def codegen(context, builder, signature, args):
        row = ir.VectorType(ir.IntType(32), TILE)
        places = [builder.inttoptr(builder.add(args[0], WIDE(64 * i)), row.as_pointer()) for i in range(TILE)]
        rows = [builder.load(place, align=4) for place in places]
        for step in (1, 2, 4, 8):  # swaps blocks of this side across the diagonal
            for i in range(TILE):
                if not i & step:
                    upper = [j if not j & step else TILE + j - step for j in range(TILE)]
                    lower = [j + step if not j & step else TILE + j for j in range(TILE)]
                    rows[i], rows[i + step] = (builder.shuffle_vector(
                        rows[i], rows[i + step], ir.Constant(row, order)) for order in (upper, lower))
        for value, place in zip(rows, places):
            builder.store(value, place, align=4)
        return context.get_dummy_value()
    return types.void(types.int64), codegen


@inline
def _split(like, source, target, low, terms):
    """32 numbers as bfloat16, and what they lack likewise."""
    first, second = load(like, source), load(like, source + 64)
    _round(first, second, target)
    if terms > 1:
        _round(sub(first, _widen(like, target)), sub(second, _widen(like, target + 32)), low)


@inline
def _tiles(like, source, sample_size, row_size, rows, samples, length, target, low, buffer, terms):
    """16 rows, of some samples side by side, as tiles of bfloat16; zeros where there are fewer, and up to whole tiles."""
    zeros, steps, present = splat(np.float32(0), 16), (length + STEP - 1) // STEP, min(rows, TILE)
    store(zeros, buffer)
    store(zeros, buffer + 64)
    for row in range(TILE):
        rolled()
        for sample in range(samples):
            rolled()
            place = sample * steps * BYTES + row * 64
            start, whole = source + row * row_size + sample * sample_size, length // STEP
            if row >= present:
                start, whole = buffer, 0
            for step in range(whole):
                offset = place + step * BYTES
                _split(like, start + 128 * step, target + offset, low + offset, terms)
            if whole < steps:
                for j in range(STEP * whole, length if row < present else 0):
                    store_scalar(like, buffer + 4 * (j - STEP * whole), load_scalar(like, start + 4 * j))
                for step in range(whole, steps):
                    offset = place + step * BYTES
                    _split(like, buffer, target + offset, low + offset, terms)
                store(zeros, buffer)
                store(zeros, buffer + 64)


@inline
def _add(both):
    """Adds the products of the tiles that are loaded, of two tiles of rows with one or two of columns."""
    _multiply(0, 4, 6)
    _multiply(2, 5, 6)
    if both:
        _multiply(1, 4, 7)
        _multiply(3, 5, 7)


@inline
def _block(a, a_low, b, b_low, steps, out, out_row, both, terms):
    """Adds the product of two tiles of rows with one of columns, or ``both``, to the result."""
    next_row, lower = steps * BYTES, out + TILE * out_row
    _load(0, out, out_row)
    _load(2, lower, out_row)
    if both:
        _load(1, out + 64, out_row)
        _load(3, lower + 64, out_row)
    for k in range(0, next_row, BYTES):
        rolled()
        _load(6, b + k, 64)
        if both:
            _load(7, b + next_row + k, 64)
        if terms > 1:
            _load(4, a_low + k, 64)
            _load(5, a_low + next_row + k, 64)
            _add(both)
        _load(4, a + k, 64)
        _load(5, a + next_row + k, 64)
        _add(both)
        if terms > 1:
            _load(6, b_low + k, 64)
            if both:
                _load(7, b_low + next_row + k, 64)
            _add(both)
    _store(0, out, out_row)
    _store(2, lower, out_row)
    if both:
        _store(1, out + 64, out_row)
        _store(3, lower + 64, out_row)


def _products(address):
    like = splat(np.float32(0), 16)
    f = carray(at(address), 1, PRODUCTS)[0]
    batch, length, chunks, terms, groups = f.batch, f.length, f.chunks, f.terms, f.groups
    x, x_sample, x_row, rows = f.x, f.x_sample, f.x_row, f.rows
    y, y_sample, y_row, columns = f.y, f.y_sample, f.y_row, f.columns
    out, out_row, out_group = f.out, f.out_row, f.out_group
    scratch = f.scratch + take_number(address + 8) * f.scratch_size
    most = CHUNK // STEP * BYTES  # of 16 rows
    buffer, a = scratch, scratch + 128
    a_low = a + 2 * most
    b = a_low + 2 * most
    b_low = b + PANEL // TILE * most
    pieces = (length + CHUNK - 1) // CHUNK  # of a long row
    together = max(1, CHUNK // ((length + STEP - 1) // STEP * STEP))  # samples of a chunk
    _configure(f.configuration)
    while True:
        rolled()
        group = take_number(address)
        if group >= groups:
            _release()
            return
        for chunk in range(group * chunks // groups, (group + 1) * chunks // groups):
            rolled()
            if pieces > 1:
                sample, begin = chunk // pieces, chunk % pieces * CHUNK
                samples, size = 1, min(CHUNK, length - begin)
            else:
                sample, begin = chunk * together, 0
                samples, size = min(together, batch - sample), length
            steps = samples * ((size + STEP - 1) // STEP)
            own = steps * BYTES
            x_chunk, y_chunk = x + sample * x_sample + 4 * begin, y + sample * y_sample + 4 * begin
            for panel in range(0, columns, PANEL):
                rolled()
                width = min(PANEL, columns - panel)
                for j in range(0, width, TILE):
                    rolled()
                    place, first = j // TILE * own, panel + j
                    _tiles(like, y_chunk + first * y_row, y_sample, y_row, columns - first, samples, size,
                           b + place, b_low + place, buffer, terms)
                    for step in range(steps):
                        _transpose(b + place + step * BYTES)
                        if terms > 1:
                            _transpose(b_low + place + step * BYTES)
                for i in range(0, rows, 2 * TILE):
                    rolled()
                    for half in range(2):
                        rolled()
                        first = i + half * TILE
                        _tiles(like, x_chunk + first * x_row, x_sample, x_row, rows - first, samples, size,
                               a + half * own, a_low + half * own, buffer, terms)
                    for j in range(0, width, 2 * TILE):
                        place = j // TILE * own
                        _block(a, a_low, b + place, b_low + place, steps,
                               out + group * out_group + i * out_row + (panel + j) * 4, out_row, j + TILE < width, terms)


_run = Kernel(PRODUCTS, float32=_products)  # which only a CPU that has them can compile
_CONFIGURATION = np.zeros(64, np.uint8)
_CONFIGURATION[0] = 1                # the palette
_CONFIGURATION[16:32:2] = 64         # bytes of a row of each of the eight tiles
_CONFIGURATION[48:56] = TILE         # their rows


def factor_terms() -> int:
    """How many bfloat16 a factor may be the sum of, by PyTorch's settings: 1 for "medium", 2 for "high"; 0 for none."""
    if not AVAILABLE or is_compiling():
        return 0
    matmul = getattr(torch.backends.mkldnn, "matmul", None)  # since 2.9, where the older way to ask may raise
    said = torch.get_float32_matmul_precision() if matmul is None else matmul.fp32_precision
    return {"high": 2, "tf32": 2, "medium": 1, "bf16": 1}.get(said, 0)


def pair_products(x: torch.Tensor, y: torch.Tensor, terms: int) -> torch.Tensor:
    """The sum over samples and numbers of x (B, n, L) times y (B, m, L), for all pairs of rows: (n, m).

    Args:
        x, y: float32, unit stride in L.
        terms: how many bfloat16 a factor is the sum of, 1 or 2.
    """
    if -x.shape[2] % STEP * 8 > x.shape[2]:  # zeros would be more than an eighth
        x, y = channel_rows(x)[None], channel_rows(y)[None]
    (batch, rows, length), columns = x.shape, y.shape[1]
    pieces, padded = -(-length // CHUNK), -(-length // STEP) * STEP
    chunks = batch * pieces if pieces > 1 else -(-batch // (CHUNK // max(STEP, padded)))
    threads = torch.get_num_threads()
    size = rows * columns  # of the result, of which each group has one: together no more than what is read
    groups = max(1, min(threads, chunks, batch * length * (rows + columns) // max(1, size)))
    side = 2 * TILE  # of a block
    out = x.new_zeros(groups, -(-rows // side) * side, -(-columns // side) * side)
    scratch_size = 128 + (4 + 2 * PANEL // TILE) * (CHUNK // STEP * BYTES)
    scratch = torch.empty(threads * scratch_size + 64, dtype=torch.uint8, device="cpu")
    _run(x.dtype, groups if length else 0, _run.fields(
        batch=batch, length=length, chunks=chunks, x=x.data_ptr(), x_sample=4 * x.stride(0), x_row=4 * x.stride(1),
        rows=rows, y=y.data_ptr(), y_sample=4 * y.stride(0), y_row=4 * y.stride(1), columns=columns,
        out=out.data_ptr(), out_row=4 * out.stride(1), out_group=4 * out.stride(0), terms=terms, groups=groups,
        scratch=-(-scratch.data_ptr() // 64) * 64, scratch_size=scratch_size,
        configuration=_CONFIGURATION.ctypes.data), size * batch * length // 64)
    return (out[0] if groups == 1 else out.sum(0))[:rows, :columns]
