"""The five norms against torch, which computes in float64: names, positions, defaults and values."""

import inspect

import cases
import fusednorm as fn
import numpy as np
import pytest
from oracle import agree

torch = pytest.importorskip("torch")
F = torch.nn.functional

# Shapes that torch takes too, with what kinds of arrays people have.
SHAPES = [(8, 6), (4, 6, 15), (3, 6, 9, 7), (2, 4, 3, 5, 6), (2, 2, 3, 2, 2, 3), (300, 6, 5), (2, 3, 4099)]


def tensor(a):
    return None if a is None else torch.from_numpy(np.array(a, np.float64))


def by_torch(call, x):
    """Return torch's float64 result, from values that were float64 or float32 already."""
    t, weight, bias = tensor(x), tensor(call.weight), tensor(call.bias)
    mean, var, from_x = tensor(call.mean), tensor(call.var), not call.norm.endswith("eval")
    if call.norm.startswith("batch"):
        return F.batch_norm(t, mean, var, weight, bias, from_x, eps=call.eps).numpy()
    if call.norm.startswith("instance"):
        return F.instance_norm(t, mean, var, weight, bias, from_x, eps=call.eps).numpy()
    if call.norm == "group":
        return F.group_norm(t, call.num_groups, weight, bias, call.eps).numpy()
    if call.norm == "layer":
        return F.layer_norm(t, x.shape[-call.dims :], weight, bias, call.eps).numpy()
    return F.rms_norm(t, x.shape[-call.dims :], weight, call.eps).numpy()


@cases.every_norm
@cases.every_wide
@pytest.mark.parametrize("layout", ["C", "F", "channels-last", "stepped", "same samples"])
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
def test_norm(norm, dtype, layout, affine, rng):
    for shape in SHAPES:
        if norm.startswith("instance") and len(shape) < 3:
            continue
        x = cases.LAYOUTS[layout](cases.draw(rng, shape, dtype))
        call = cases.make_call(norm, x, rng, affine=affine, dims=min(2, len(shape) - 1))
        agree(call.run(x), by_torch(call, x))


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("momentum", [0.1, 0.3, 1.0, 0.0])
@cases.every_wide
def test_running_statistics(norm, momentum, dtype, rng):
    ours, theirs = (
        [np.zeros(6, dtype), np.ones(6, dtype)],
        [torch.zeros(6, dtype=torch.float64), torch.ones(6, dtype=torch.float64)],
    )
    function, peer = (fn.batch_norm, F.batch_norm) if norm == "batch" else (fn.instance_norm, F.instance_norm)
    for step in range(3):
        x = cases.draw(rng, (4 + step, 6, 5, 7), dtype)
        agree(function(x, *ours, None, None, True, momentum), peer(tensor(x), *theirs, None, None, True, momentum))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6 if dtype == np.float32 else 1e-12)


@cases.every_wide
def test_positions(dtype, rng):
    """Called without a keyword, both mean the same."""
    x, weight, bias = cases.draw(rng, (3, 6, 4, 5), dtype), *rng.normal(1, 0.5, (2, 6))
    mean, var = rng.normal(0, 1, 6), rng.uniform(0.5, 2, 6)
    row = rng.normal(1, 0.5, 5)
    pairs = [
        (fn.batch_norm, F.batch_norm, (mean, var, weight, bias, False, 0.1, 1e-3)),
        (fn.instance_norm, F.instance_norm, (mean, var, weight, bias, False, 0.1, 1e-3)),
        (fn.instance_norm, F.instance_norm, (None, None, weight, bias)),
        (fn.group_norm, F.group_norm, (3, weight, bias, 1e-3)),
        (fn.layer_norm, F.layer_norm, ((5,), row, -row, 1e-3)),
        (fn.rms_norm, F.rms_norm, ((5,), row, 1e-3)),
    ]
    for ours, theirs, arguments in pairs:
        tensors = [tensor(a) if isinstance(a, np.ndarray) else a for a in arguments]
        agree(ours(x, *arguments), theirs(tensor(x), *tensors))


@pytest.mark.parametrize("name", ["batch_norm", "instance_norm", "group_norm", "layer_norm"])
def test_names_and_defaults_are_those_of_torch(name):
    """Torch's are (input, ...); its running statistics have no default in batch_norm."""
    theirs = list(inspect.signature(getattr(F, name)).parameters.values())[1:]
    ours = [p for p in inspect.signature(getattr(fn, name)).parameters.values() if p.kind == p.POSITIONAL_OR_KEYWORD]
    assert [p.name for p in ours] == [p.name for p in theirs]
    assert all(a.default == b.default for a, b in zip(ours, theirs, strict=True) if b.default is not b.empty)


@cases.every_wide
def test_default_eps_of_rms_norm(dtype):
    """Values of the size of sqrt(eps), so that eps decides."""
    x = np.full((2, 8), np.sqrt(np.finfo(dtype).eps), dtype)
    wanted = F.rms_norm(torch.from_numpy(x), (8,)).numpy()
    np.testing.assert_allclose(fn.rms_norm(x, 8), wanted, rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@cases.every_norm
def test_bad_values_travel_as_in_torch(norm, bad, rng):
    x = cases.draw(rng, (3, 6, 5))
    x[1, 2, 3] = bad
    call = cases.make_call(norm, cases.draw(rng, (3, 6, 5)), rng)
    got, wanted = call.run(x), by_torch(call, x)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(wanted))
    np.testing.assert_array_equal(got[np.isinf(wanted)], wanted[np.isinf(wanted)])


@pytest.mark.parametrize("norm", ["batch eval", "instance eval"])
def test_bad_statistics_travel_as_in_torch(norm, rng):
    x = cases.draw(rng, (3, 6, 5))
    call = cases.make_call(norm, x, rng)
    call.mean[1], call.mean[2], call.var[3], call.var[4] = np.nan, np.inf, np.nan, np.inf
    got, wanted = call.run(x), by_torch(call, x)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(wanted))
    fine = np.isfinite(wanted)
    agree(got[fine], wanted[fine])
