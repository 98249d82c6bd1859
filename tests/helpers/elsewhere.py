"""A make-believe accelerator: tensors that live "elsewhere" and refuse to mix with the CPU's, as a GPU's do.

They compute on the CPU but say ``device="meta"``, have no ``numpy()`` and raise where a GPU would.
"""

import torch
from torch.utils._pytree import tree_map_only

DEVICE = torch.device("meta")
_COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
_INDEXED_FROM_THE_CPU = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default,
                         torch.ops.aten.index_put_.default, torch.ops.aten._index_put_impl_.default}


class Elsewhere(torch.Tensor):
    """Wraps a tensor of the CPU."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, device=DEVICE)

    def __init__(self, inner):
        self.inner = inner

    def __repr__(self):
        return f"Elsewhere({self.inner!r})"

    def tolist(self):
        return self.inner.tolist()

    def __setitem__(self, index, value):
        inner = tree_map_only(Elsewhere, lambda t: t.inner, (index, value))
        self.inner[inner[0]] = inner[1]

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if op not in _COPIES:
            _refuse_mixing(op, args, kwargs)
        leaves = kwargs.get("device", DEVICE) != DEVICE
        if "device" in kwargs:
            kwargs["device"] = "cpu"
        args, kwargs = tree_map_only(Elsewhere, lambda t: t.inner, (args, kwargs))
        result = op(*args, **kwargs)
        return result if leaves else tree_map_only(torch.Tensor, cls._wrapped, result)

    @classmethod
    def _wrapped(cls, result):
        return cls(result)


def _refuse_mixing(op, args, kwargs):
    flat, _ = torch.utils._pytree.tree_flatten((args, kwargs))
    here = [t for t in flat if isinstance(t, torch.Tensor) and not isinstance(t, Elsewhere)]
    may_index = op in _INDEXED_FROM_THE_CPU and isinstance(args[0], Elsewhere)
    for tensor in here:
        if tensor.dim() and not (may_index and tensor.dtype in (torch.long, torch.bool)):
            raise RuntimeError(f"{op} mixes tensors of the CPU and of elsewhere")


def move(network):
    """The network with its parameters and buffers elsewhere."""
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = torch.nn.Parameter(Elsewhere(parameter.detach()))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = Elsewhere(buffer)
    return network
