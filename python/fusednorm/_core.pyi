from typing import Any

def batch_norm(
    x: object,
    running_mean: object,
    running_var: object,
    weight: object,
    bias: object,
    training: object,
    momentum: object,
    eps: object,
    channel_axis: object,
    residual: object,
    activation: object,
    dtype: object,
    out: object,
    return_stats: object,
    /,
) -> Any: ...
def instance_norm(
    x: object,
    running_mean: object,
    running_var: object,
    weight: object,
    bias: object,
    use_input_stats: object,
    momentum: object,
    eps: object,
    channel_axis: object,
    residual: object,
    activation: object,
    dtype: object,
    out: object,
    return_stats: object,
    /,
) -> Any: ...
def group_norm(
    x: object,
    num_groups: object,
    weight: object,
    bias: object,
    eps: object,
    channel_axis: object,
    residual: object,
    activation: object,
    dtype: object,
    out: object,
    return_stats: object,
    /,
) -> Any: ...
def layer_norm(
    x: object,
    normalized_shape: object,
    weight: object,
    bias: object,
    eps: object,
    residual: object,
    activation: object,
    dtype: object,
    out: object,
    return_stats: object,
    /,
) -> Any: ...
def rms_norm(
    x: object,
    normalized_shape: object,
    weight: object,
    eps: object,
    residual: object,
    activation: object,
    dtype: object,
    out: object,
    return_stats: object,
    /,
) -> Any: ...
def add_layer_norm(
    x: object, residual: object, normalized_shape: object, weight: object, bias: object, eps: object, out: object, /
) -> tuple[Any, Any]: ...
def add_rms_norm(
    x: object, residual: object, normalized_shape: object, weight: object, eps: object, out: object, /
) -> tuple[Any, Any]: ...
def batch_norm_backward(
    grad: object,
    x: object,
    running_mean: object,
    running_var: object,
    weight: object,
    training: object,
    eps: object,
    channel_axis: object,
    stats: object,
    /,
) -> tuple[Any, ...]: ...
def instance_norm_backward(
    grad: object,
    x: object,
    running_mean: object,
    running_var: object,
    weight: object,
    use_input_stats: object,
    eps: object,
    channel_axis: object,
    stats: object,
    /,
) -> tuple[Any, ...]: ...
def group_norm_backward(
    grad: object,
    x: object,
    num_groups: object,
    weight: object,
    eps: object,
    channel_axis: object,
    stats: object,
    /,
) -> tuple[Any, ...]: ...
def layer_norm_backward(
    grad: object,
    x: object,
    normalized_shape: object,
    weight: object,
    eps: object,
    stats: object,
    /,
) -> tuple[Any, ...]: ...
def rms_norm_backward(
    grad: object,
    x: object,
    normalized_shape: object,
    weight: object,
    eps: object,
    stats: object,
    /,
) -> tuple[Any, ...]: ...
def moments(x: object, axis: object, ddof: object, keepdims: object, dtype: object, /) -> tuple[Any, Any]: ...
def pooled(function: object, argument: object, x: object, channel_axis: object, /) -> Any: ...
def merge(into: object, other: object, /) -> None: ...
def rounded_array(x: object, dtype: object, /) -> Any: ...
def direct(function: object, core: object, /) -> Any: ...
def set_num_threads(n: object, /) -> None: ...
def get_num_threads() -> int: ...
def config() -> dict[str, Any]: ...
