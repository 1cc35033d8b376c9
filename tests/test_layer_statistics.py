"""Running statistics of layers: averages, dtypes, and what leaves them as they are."""

import cases
import fusednorm as fn
import layer_cases
import numpy as np
import oracle
import pytest
from layer_cases import BATCH, INSTANCE

EPS32 = np.finfo(np.float32).eps


@pytest.mark.parametrize("name", ["BatchNorm1d", "InstanceNorm1d"])
def test_momentum_none_is_the_average_of_the_batches(name, rng):
    layer = getattr(fn, name)(4, momentum=None, track_running_stats=True)
    batches = [rng.normal(i, i + 1, (3 + i, 4, 5)) for i in range(4)]
    for x in batches:
        layer(x)
    axes = (0, 2) if name == "BatchNorm1d" else (2,)
    means = [x.mean(axes) for x in batches]
    variances = [x.var(axes, ddof=1) for x in batches]
    if name == "InstanceNorm1d":
        means, variances = [m.mean(0) for m in means], [v.mean(0) for v in variances]
    assert layer.num_batches_tracked == 4
    # One rounding to float32 for every batch.
    np.testing.assert_allclose(layer.running_mean, np.mean(means, 0), rtol=4 * EPS32, atol=4 * EPS32)
    np.testing.assert_allclose(layer.running_var, np.mean(variances, 0), rtol=4 * EPS32)


def test_running_statistics_of_a_half_precision_layer_are_float32(rng):
    for dtype, statistic in (("f2", "f4"), ("f4", "f4"), ("f8", "f8")):
        layer = fn.BatchNorm1d(3, dtype=dtype)
        assert (layer.weight.dtype, layer.bias.dtype) == (np.dtype(dtype),) * 2
        assert (layer.running_mean.dtype, layer.running_var.dtype) == (np.dtype(statistic),) * 2
        assert layer.num_batches_tracked.dtype == np.int64


def test_float64_layer_keeps_float64(rng):
    layer = fn.BatchNorm1d(3, dtype=np.float64)
    x = rng.normal(1, 1, (50, 3))
    layer(x)
    np.testing.assert_allclose(layer.running_mean, 0.1 * x.mean(0), rtol=oracle.sums_unit(50))


def test_bfloat16_parameters(rng):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    layer = fn.LayerNorm(8, dtype=ml_dtypes.bfloat16)
    assert layer.weight.dtype == ml_dtypes.bfloat16
    layer.weight = [1.25] * 8
    assert layer.weight.dtype == ml_dtypes.bfloat16
    x = cases.draw(rng, (3, 8))
    assert cases.same_bits(layer(x), fn.layer_norm(x, 8, np.full(8, 1.25, np.float32)))


@pytest.mark.parametrize("case", [c for c in [*BATCH, *INSTANCE] if len(c.shape) > 2], ids=layer_cases.LayerCase.id)
def test_empty_batch_leaves_the_state_alone(case, rng):
    batched = int(case.name[-2]) + 2
    x = np.zeros((0, *case.shape[1:]) if len(case.shape) == batched else (6, 0, *case.shape[2:]), np.float32)
    layer = layer_cases.draw_state(case.make(), rng)
    before = layer_cases.state_bytes(layer)
    assert layer(x).shape == x.shape
    assert layer_cases.state_bytes(layer) == before


WRONG_CALLS = [
    (case, wrong)
    for case in (*BATCH, *INSTANCE)
    for wrong in ("x", "out", "residual", "one value", "read-only running_var", "read-only num_batches_tracked")
    if not wrong.startswith("read-only") or case.make().num_batches_tracked is not None
]


@pytest.mark.parametrize(("case", "wrong"), WRONG_CALLS, ids=[f"{case.id()}-{wrong}" for case, wrong in WRONG_CALLS])
def test_error_in_training_changes_nothing(case, wrong, rng):
    layer = layer_cases.draw_state(case.make(), rng)
    x, out, residual = cases.draw(rng, case.shape), None, None
    if wrong == "x":
        x = x[..., None, None]
    elif wrong == "out":
        out = np.zeros((3, 3), np.float32)
    elif wrong == "residual":
        residual = np.zeros((3, 3))
    elif wrong == "one value":
        channels = 1 if case.name.startswith("Batch") or len(case.shape) == int(case.name[-2]) + 2 else 0
        x = x[tuple(slice(None) if i == channels else slice(1) for i in range(x.ndim))]
    else:
        layer.momentum = None
        getattr(layer, wrong.removeprefix("read-only ")).flags.writeable = False
    before = layer_cases.state_bytes(layer)
    with pytest.raises((TypeError, ValueError), match="expected"):
        layer(x, residual=residual, out=out)
    assert layer_cases.state_bytes(layer) == before
