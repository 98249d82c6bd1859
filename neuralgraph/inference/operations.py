"""What of torch a compiled model in a file may call: by name, and nothing else."""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch

from ..errors import InputError
from ..plan.capturing import draws, scaled

# Operations that read their arguments and make a result: none draws, changes an argument, opens a file, or takes memory
# as an argument says.
ATEN = frozenset("""
    abs acos acosh add addbmm addcdiv addcmul addmm addmv asin asinh atan atan2 atanh baddbmm bitwise_and bitwise_left_shift
    bitwise_not bitwise_or bitwise_right_shift bitwise_xor bmm ceil clamp clamp_max clamp_min copysign cos cosh div dot einsum
    eq erf erfc erfinv exp exp2 expm1 floor floor_divide fmod frac ge gt hypot isfinite isinf isnan ldexp le lerp lgamma linear
    log log10 log1p log2 logaddexp logical_and logical_not logical_or logical_xor logit lt matmul maximum minimum mm mul mv
    nan_to_num ne neg outer pow reciprocal remainder round rsqrt rsub sgn sign sin sinc sinh sqrt square sub tan tanh trunc
    where xlogy

    celu elu gelu glu hardshrink hardsigmoid hardswish hardtanh leaky_relu log_sigmoid log_softmax mish prelu relu relu6 selu
    sigmoid silu softmax softplus softshrink threshold _log_softmax _prelu_kernel _softmax

    all amax amin aminmax any argmax argmin argsort count_nonzero cummax cummin cumprod cumsum logcumsumexp logsumexp max mean
    median min mode norm prod sort std std_mean sum topk var var_mean linalg_vector_norm linalg_norm cosine_similarity
    pairwise_distance cdist trace

    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d
    max_pool3d_with_indices _adaptive_avg_pool2d _adaptive_avg_pool3d conv1d conv2d conv3d conv_transpose1d conv_transpose2d
    conv_transpose3d convolution bilinear im2col col2im

    batch_norm group_norm instance_norm layer_norm native_batch_norm native_group_norm native_layer_norm rms_norm
    _native_batch_norm_legit_no_training dropout scaled_dot_product_attention embedding lstm gru rnn_relu rnn_tanh

    affine_grid_generator channel_shuffle constant_pad_nd grid_sampler grid_sampler_2d grid_sampler_3d pad pixel_shuffle
    pixel_unshuffle reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d
    upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d
    upsample_trilinear3d _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d

    alias broadcast_to cat chunk clone concat concatenate contiguous detach diagonal expand expand_as flatten flip gather hstack
    index index_add index_put index_select lift_fresh_copy masked_fill movedim narrow permute repeat repeat_interleave reshape
    roll scatter scatter_add select select_scatter slice slice_scatter split split_with_sizes squeeze stack swapaxes t
    take_along_dim tensor_split tile to transpose tril triu unbind unflatten unfold unsqueeze view view_as vstack _to_copy
    _unsafe_view arange full full_like linspace new_full new_ones new_zeros ones ones_like scalar_tensor zeros zeros_like
    one_hot eye meshgrid
""".split())
OWN: dict[str, Callable] = {"getitem": operator.getitem, "scaled": scaled}
NAMES = {function: name for name, function in OWN.items()}


def name_of(function: Callable) -> str | None:
    """What a file calls it; None for what no file may call."""
    if isinstance(function, torch._ops.OpOverload):
        library, _, name = function._schema.name.partition("::")
        if library == "aten" and name in ATEN and not function._schema.is_mutable:
            return f"{name}.{function._overloadname}"
        return None
    return NAMES.get(function)


def named(name: object) -> Callable:
    """The function that a file calls so.

    Raises:
        InputError: for any other than those above, and for one that this version of torch lacks.
    """
    if not isinstance(name, str):
        raise InputError(f"expected the name of an operation, got {name!r}")
    if name in OWN:
        return OWN[name]
    base, _, overload = name.partition(".")
    if base not in ATEN:
        raise InputError(f"the operation {name!r} is none that a compiled model may call")
    function = getattr(getattr(torch.ops.aten, base, None), overload, None)
    if not isinstance(function, torch._ops.OpOverload) or name_of(function) != name:
        raise InputError(f"torch {torch.__version__} has no operation {name!r}")
    return function


def check_call(function: Callable, arguments: list, options: dict) -> None:
    """Raises InputError for a call that draws random numbers."""
    if draws(function, tuple(arguments), options):
        raise InputError(f"the operation {function} draws random numbers")
