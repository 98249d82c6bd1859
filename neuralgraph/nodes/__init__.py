"""What a node computes: operations, a file each, their registry, and node functions made of them."""

from .activation import ACTIVATIONS, Activation, Scalar
from .bias import Bias
from .conv import DepthwiseConv
from .function import AGGREGATES, IDENTITY, STATIC, NodeFunction
from .learned_activation import LearnedActivation
from .lowered import LOWERED, Affine, Convolve, Lowered, Normalize, Pointwise, array
from .norm import EPSILON, MOMENTUM, NORMS, BatchNorm, InstanceNorm, Norm
from .operation import Operation, Rows
from .registry import (
                       OPERATIONS,
                       activation_code,
                       activation_name,
                       check_acts,
                       decode_steps,
                       encode_steps,
                       is_learned,
                       learned_names,
                       operations_of,
                       register_activation,
                       register_operation,
                       scalar,
                       used_values,
                       value_name,
                       value_shapes,
)

__all__ = ["ACTIVATIONS", "AGGREGATES", "EPSILON", "IDENTITY", "LOWERED", "MOMENTUM", "NORMS", "OPERATIONS", "STATIC",
           "Activation", "Affine", "BatchNorm", "Bias", "Convolve", "DepthwiseConv", "InstanceNorm", "LearnedActivation",
           "Lowered",
           "NodeFunction", "Norm", "Normalize", "Operation", "Pointwise", "Rows", "Scalar", "activation_code",
           "activation_name", "array", "check_acts", "decode_steps", "encode_steps", "is_learned", "learned_names",
           "operations_of", "register_activation", "register_operation", "scalar", "used_values", "value_name",
           "value_shapes"]


def __dir__() -> list[str]:
    return __all__
