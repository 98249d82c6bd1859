"""Parts of kernels: they have no machine code of their own."""

import ctypes

import numpy as np
import pytest
import torch
from numba.core.registry import cpu_target

from neuralgraph.kernels.launch import Kernel
from neuralgraph.kernels.parts import called, inline
from neuralgraph.kernels.record import record
from neuralgraph.kernels.tile_maps import is_swept
from neuralgraph.kernels.vector import add, fill, load, splat, store


@inline
def _twice(like, address):
    store(add(load(like, address), load(like, address)), address)


@called
def _twice_and_one(zero, address):
    like = splat(zero, 4)
    _twice(like, address)
    store(add(load(like, address), fill(like, zero + 1)), address)


def _run(address):
    _twice_and_one(np.float32(0), address)


def test_parts_are_linked_into_a_kernel():
    kernel, numbers = Kernel(record("first"), float32=_run), (ctypes.c_float * 4)(1, 2, 3, -4)
    run = kernel._compile(torch.float32)
    run(ctypes.addressof(numbers))
    assert list(numbers) == [3, 5, 7, -7]
    for part in (_twice, _twice_and_one):
        (compiled,) = part.overloads.values()
        assert not cpu_target.target_context.codegen()._engine.is_symbol_defined(compiled.fndesc.llvm_func_name)


def test_python_cannot_call_a_part():
    with pytest.raises(TypeError, match="bad argument type for built-in operation"):
        is_swept(3, 1)
