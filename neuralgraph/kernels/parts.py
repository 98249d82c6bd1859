"""Functions that are compiled as parts of kernels.

numba optimises each function by itself, makes machine code of it and entries for Python and C, and then optimises the
functions that call it with all that is in it: kernels, which are many small functions, would be compiled several times
over. Of a part there is only its intermediate code, which is optimised once, as part of a kernel.
"""

from __future__ import annotations

import ctypes
from functools import partial

from numba import njit
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler

_REFUSAL = ctypes.cast(ctypes.pythonapi.PyErr_BadArgument, ctypes.c_void_p).value  # raises TypeError, returns 0


class _Part(JITCodeLibrary):
    """Code that waits to be linked into that of its callers."""

    def _optimize_final_module(self):
        pass

    def _finalize_final_module(self):
        self._finalized = True

    def get_pointer_to_function(self, name):
        """What Python calls, if it calls the part: there is no machine code."""
        return _REFUSAL

    @property
    def codegen(self):
        """Where numba wants an environment to be known, which parts, that hold no objects, do without."""
        return self

    def set_env(self, name, env):
        pass


class _PartCompiler(Compiler):
    def __init__(self, typingctx, targetctx, library, *others):
        super().__init__(typingctx, targetctx, _Part(targetctx.codegen(), "part"), *others)


_part = partial(njit, pipeline_class=_PartCompiler, no_cpython_wrapper=True, no_cfunc_wrapper=True)

inline = _part(forceinline=True)  # vectors are never passed between functions of the machine
called = _part(forceinline=False)  # a function of scalars; what is not said is that of the caller
