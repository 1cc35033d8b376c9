"""Same bits: for any number of threads, for a row alone, next to a NaN, and for every instruction set."""

import json
from dataclasses import replace

import cases
import digest
import fusednorm as fn
import gradient_cases
import numpy as np
import pytest
from processes import run_python

ISAS = fn.show_config("dicts")["isas_available"]


def same(a, b):
    assert [name for name in a if a[name] != b[name]] == []


@pytest.fixture(scope="module")
def serial_digests():
    before = fn.get_num_threads()
    fn.set_num_threads(1)
    yield digest.all_digests()
    fn.set_num_threads(before)


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_number_of_threads(threads, serial_digests, restore_threads):
    fn.set_num_threads(threads)
    same(digest.all_digests(), serial_digests)


@pytest.mark.parametrize("shape", [(1, 3, 400_000), (2, 2, 300, 400), (200_000, 3), (3, 150_000), (64, 12, 40, 40)], ids=str)
def test_number_of_threads_on_large_arrays(shape, restore_threads):
    for layout in ("C", "channels-last", "F"):
        results = []
        for threads in (1, 2, 3, 7):
            fn.set_num_threads(threads)
            results.append({name: digest.digest(value) for name, value in digest.calls(shape, layout, "f4")})
        for other in results[1:]:
            same(other, results[0])


def test_number_of_threads_does_not_reach_running_statistics(restore_threads, rng):
    x = cases.draw(rng, (4, 3, 50_000))
    results = []
    for threads in (1, 2, 3, 7):
        fn.set_num_threads(threads)
        mean, var = np.zeros(3), np.ones(3)
        fn.batch_norm(x, mean, var, training=True)
        results.append(mean.tobytes() + var.tobytes())
    assert len(set(results)) == 1


@pytest.fixture(scope="module", params=ISAS)
def forced(request):
    """What the digest script says when that instruction set is forced."""
    result = run_python(digest.__file__, FUSEDNORM_ISA=request.param)
    assert result.returncode == 0, result.stderr
    return request.param, json.loads(result.stdout)


def test_forcing_an_instruction_set_takes_effect(forced):
    name, said = forced
    assert said["isa"] == name


def test_instruction_set(forced, serial_digests):
    same(forced[1]["digests"], serial_digests)


def test_baseline_runs_everywhere():
    assert ISAS[0] in ("baseline", "neon")
    assert set(ISAS) <= set(fn.show_config("dicts")["isas_compiled"])


@pytest.mark.parametrize("name", ["sse9", "AVX2", "avx2 ", "native"])
def test_unknown_instruction_set(name):
    result = run_python("-c", "import fusednorm", FUSEDNORM_ISA=name)
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert last == f"ImportError: FUSEDNORM_ISA: expected one of {', '.join(ISAS)}; got '{name}'"


def test_unsupported_instruction_set():
    missing = set(fn.show_config("dicts")["isas_compiled"]) - set(ISAS)
    if not missing:
        pytest.skip("this processor runs every instruction set that was compiled")
    name = missing.pop()
    last = run_python("-c", "import fusednorm", FUSEDNORM_ISA=name).stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: FUSEDNORM_ISA: expected one of")
    assert f"got '{name}', which it does not" in last


def test_empty_variable_forces_nothing():
    result = run_python("-c", "import fusednorm as fn; print(fn.show_config('dicts')['isa'])", FUSEDNORM_ISA="")
    assert result.stdout.strip() == ISAS[-1]


@pytest.mark.parametrize("layout", ["C", "channels-last", "padded", "stepped"])
@pytest.mark.parametrize("shape", [(3, 64, 20, 20), (2, 320, 30, 10), (40, 6, 7, 7)], ids=str)
def test_statistics_do_not_depend_on_what_they_are_for(shape, layout, rng):
    """Nor on where results go: x is read alike for moments, for a norm and for a norm into another layout."""
    x = cases.LAYOUTS[layout](cases.draw(rng, shape, np.float64))
    mean = fn.moments(x, (0, 2, 3)).mean
    for out in (None, np.empty(shape), cases.channels_last(np.empty(shape))):
        assert cases.same_bits(fn.batch_norm(x, training=True, out=out, return_stats=True)[1], mean)


@pytest.mark.parametrize("norm", cases.ROW_NORMS)
@pytest.mark.parametrize("layout", ["F", "channels-last", "rotated"])
@pytest.mark.parametrize("dtype", [*cases.FLOATS, np.uint8, np.int64])
@pytest.mark.parametrize("shape", [(5, 3), (8, 16), (70, 101), (33, 769), (9, 5, 130), (2, 66, 2052)], ids=str)
def test_rows_side_by_side_in_memory(shape, dtype, layout, norm, rng):
    """They are turned in squares, many rows at a time, to the bits of rows behind each other, and into any layout."""
    x = cases.draw(rng, shape, dtype)
    laid, call = cases.LAYOUTS[layout](x), cases.make_call(norm, x, rng)
    residual = cases.draw(rng, shape, np.float32)
    for extra in ({}, {"residual": residual, "activation": "silu"}):
        wanted = call.run(x, **extra)
        assert cases.same_bits(call.run(laid, **extra), wanted)
        for given in (x, laid):
            for place in cases.WRITABLE:
                out = cases.LAYOUTS[place](np.full(shape, 7, wanted.dtype))
                assert cases.same_bits(call.run(given, out=out, **extra), wanted)


# ---- neighbours


@pytest.mark.parametrize("norm", cases.BY_SAMPLE)
@pytest.mark.parametrize("layout", ["C", "channels-last", "padded"])
@cases.every_float
def test_sample_alone(norm, layout, dtype, restore_threads, rng):
    for shape, threads in (((7, 6, 5, 9), 1), ((130, 6, 40), 2), ((3, 4, 5000), 3), ((5, 2052, 3), 2), ((70, 6, 20, 20), 2)):
        fn.set_num_threads(threads)
        x = cases.LAYOUTS[layout](cases.draw(rng, shape, dtype))
        call = cases.make_call(norm, x, rng)
        together = call.run(x)
        for i in {0, 1, shape[0] // 2, shape[0] - 1}:
            assert cases.same_bits(call.run(x[i : i + 1]), together[i : i + 1])
            if layout != "padded":
                assert cases.same_bits(call.run(x[i : i + 1].copy(order="K")), together[i : i + 1])


@pytest.mark.parametrize("layout", ["C", "channels-last", "padded", "rotated"])
@pytest.mark.parametrize("num_groups", [1, 2, 6])
@cases.every_wide
def test_many_samples_of_small_groups(num_groups, layout, dtype, rng):
    """They are taken many at a time, along the groups or along the samples."""
    for shape in ((130, 12), (70, 12, 5), (66, 24, 7, 7), (3, 24, 2, 2)):
        x, grad = (cases.LAYOUTS[layout](cases.draw(rng, shape, dtype)) for _ in range(2))
        call = replace(cases.make_call("group", x, rng), num_groups=num_groups)
        together = call.run(x)
        call.reference(x).check(together)
        gradient_cases.check(call, grad, x)
        gradients = call.backward(grad, x)[0]
        for i in (0, shape[0] - 1):
            one = slice(i, i + 1)
            assert cases.same_bits(call.run(x[one]), together[one])
            assert cases.same_bits(call.backward(grad[one], x[one])[0], gradients[one])


@pytest.mark.parametrize("layout", ["C", "channels-last", "rotated", "reversed last", "same samples"])
@pytest.mark.parametrize("weight", [1, 1e-42, 1e39], ids=["", "too small for float32", "too large"])
@pytest.mark.parametrize("dtype", [*cases.FLOATS, np.uint8, np.int64])
def test_small_groups_go_anywhere(dtype, weight, layout, rng):
    """Their values get weights of their own, wherever results and residuals lie."""
    wanted = np.float32 if dtype in (np.uint8, np.int64) else dtype
    for shape, num_groups in (((9, 12, 2, 3), 3), ((5, 12, 15), 1), ((2, 96, 3, 3), 6), ((3, 64, 4, 4), 2)):
        x = cases.LAYOUTS[layout](cases.draw(rng, shape, dtype))
        call = cases.make_call("group", x, rng, num_groups=num_groups)
        # The result fits, whatever the weight does.
        call = replace(call, weight=np.full(shape[1], float(weight)), eps=4e75 if weight > 1 else call.eps)
        residual = rng.normal(0, 1, shape).astype(wanted)
        for epilogue in ({}, {"residual": residual, "activation": "relu"}, {"residual": cases.channels_last(residual)}):
            together = call.run(x, dtype=wanted, **epilogue)
            if not epilogue:
                call.reference(x, wanted).check(together)
            for lay in (cases.stepped, cases.channels_last, cases.reversed_all):
                elsewhere = lay(np.zeros_like(together))
                call.run(x, dtype=wanted, out=elsewhere, **epilogue)
                assert cases.same_bits(elsewhere, together)


@pytest.mark.parametrize("layout", ["C", "padded", "reversed", "same samples"])
@pytest.mark.parametrize("weight", [1, 1e-42], ids=["", "beyond float32"])
@pytest.mark.parametrize("dtype", [*cases.FLOATS, np.uint8, np.int64])
def test_many_samples_of_small_planes(dtype, weight, layout, rng):
    """A channel of few values becomes as many columns with its coefficients."""
    for size in (2, 5, 15, 16, 17, 49, 64):
        x = cases.LAYOUTS[layout](cases.draw(rng, (9, 13, size), dtype))
        parameters = (rng.normal(0, 1, 13), np.full(13, 0.5), np.full(13, float(weight)), rng.normal(0, 1, 13))
        wanted = np.float32 if dtype in (np.uint8, np.int64) else dtype
        residual = rng.normal(0, 1, x.shape).astype(wanted)
        for epilogue in ({}, {"residual": residual, "activation": "relu"}, {"residual": residual[:, :, ::-1]}):
            together = fn.batch_norm(x, *parameters, dtype=wanted, **epilogue)
            elsewhere = cases.stepped(np.zeros_like(together))
            fn.batch_norm(x, *parameters, dtype=wanted, out=elsewhere, **epilogue)
            assert cases.same_bits(elsewhere, together)
            for i in (0, 8):
                some = {k: v[i : i + 1] if k == "residual" else v for k, v in epilogue.items()}
                alone = fn.batch_norm(x[i : i + 1], *parameters, dtype=wanted, **some)
                assert cases.same_bits(alone, together[i : i + 1])


def with_nans(rng, shape):
    """Return values among which are NaNs of both signs: the first to be met would choose that of a mean."""
    x = cases.draw(rng, shape)
    for row in x.reshape(-1, shape[-1])[::2]:
        row[rng.choice(shape[-1], 2, replace=False)] = np.nan, -np.nan
    return x


@cases.every_norm
@pytest.mark.parametrize("size", [16, 257, 5000])
def test_number_of_threads_and_nans(norm, size, restore_threads, rng):
    x, grad = with_nans(rng, (76, 6, size)), with_nans(rng, (76, 6, size))
    call = cases.make_call(norm, x, rng)
    results = []
    for threads in (1, 2, 3):
        fn.set_num_threads(threads)
        results.append(digest.digest(call.run(x), *call.backward(grad, x), *fn.moments(x, 2), *fn.moments(x, (0, 2))))
    assert len(set(results)) == 1


@pytest.mark.parametrize("norm", cases.BY_SAMPLE)
@pytest.mark.parametrize("size", [16, 257])
def test_sample_of_nans_alone(norm, size, rng):
    x = with_nans(rng, (70, 6, size))
    call = cases.make_call(norm, x, rng)
    together = call.run(x)
    for i in range(70):
        assert cases.same_bits(call.run(x[i : i + 1]), together[i : i + 1])


@pytest.mark.parametrize("norm", cases.BY_SAMPLE)
def test_sample_alone_beside_extreme_ones(norm, rng):
    """A row whose numbers do not fit float32 is computed in float64; its neighbours are not."""
    x = cases.draw(rng, (70, 6, 9))
    x[3] *= np.float32(1e37)
    x[5] *= np.float32(1e-40)
    x[6, 0, 0] = np.inf
    x[8] = 0
    for eps in (0, 1e-5):
        call = replace(cases.make_call(norm, x, rng), eps=eps)
        together = call.run(x)
        for i in range(12):
            assert cases.same_bits(call.run(x[i : i + 1]), together[i : i + 1])


@pytest.mark.parametrize("layout", ["C", "channels-last", "padded"])
@pytest.mark.parametrize("num_groups", [1, 2])
@pytest.mark.parametrize("shape", [(9, 12, 2, 3), (70, 12, 5), (40, 64, 3, 3)])
def test_gradients_of_small_groups_beside_extreme_ones(shape, num_groups, layout, rng):
    """Samples whose numbers do not fit float32 are computed in float64; their neighbours are not."""
    values, grad = cases.draw(rng, shape), rng.normal(0, 1, shape).astype(np.float32)
    call = cases.make_call("group", values, rng, num_groups=num_groups)
    plain = call.backward(grad, cases.LAYOUTS[layout](values))[0]
    values[3] *= np.float32(1e37)
    values[5] *= np.float32(1e-40)
    x = cases.LAYOUTS[layout](values)
    got = call.backward(grad, x)
    gradient_cases.expected(call, grad, x)[0].check(got[0])
    assert cases.same_bits(np.delete(got[0], (3, 5), 0), np.delete(plain, (3, 5), 0))


@pytest.mark.parametrize("norm", ["batch", "group", "instance"])
@pytest.mark.parametrize("layout", ["C", "padded", "stepped", "reversed"])
@pytest.mark.parametrize("extreme", [False, True])
def test_group_of_channels_alone(norm, layout, extreme, restore_threads, rng):
    """Small ones are taken many at a time, and those whose numbers do not fit float32 alone."""
    for shape, groups, threads in (
        ((4, 70, 3, 3), 35, 1),
        ((9, 64, 7, 7), 64, 2),
        ((2, 130, 5), 26, 1),
        ((40, 260, 4, 4), 65, 2),
    ):
        fn.set_num_threads(threads)
        values = cases.draw(rng, shape)
        if extreme:
            values[:, 20:30] *= np.float32(1e37)
            values[:, 41] *= np.float32(1e-42)
        x = cases.LAYOUTS[layout](values)
        grad = rng.normal(0, 1, shape).astype(x.dtype)
        call = cases.make_call(norm, x, rng, num_groups=groups)
        together, gradient = call.run(x), call.backward(grad, x)[0]
        for i in {0, 7, groups - 1}:
            part = slice(i * shape[1] // groups, (i + 1) * shape[1] // groups)
            alone = cases.of_channels(call, part)
            assert cases.same_bits(alone.run(x[:, part]), together[:, part])
            assert cases.same_bits(alone.backward(grad[:, part], x[:, part])[0], gradient[:, part])


@pytest.mark.parametrize("dtype", ["f4", "f2", "u1"])
@pytest.mark.parametrize("threads", [1, 2])
def test_moments_of_a_channel_alone(dtype, threads, restore_threads, rng):
    """Those of neighbours are found side by side, though each has more values than one segment."""
    fn.set_num_threads(threads)
    for shape in ((150, 33, 21, 23), (17, 18, 70, 71), (40, 70, 45, 45)):
        x = rng.integers(0, 255, shape, np.uint8) if dtype == "u1" else cases.draw(rng, shape, dtype)
        together = fn.moments(x, (0, 2, 3), dtype=np.float64)
        for channel in (0, 16, shape[1] - 1):
            alone = fn.moments(x[:, channel], dtype=np.float64)
            assert cases.same_bits(alone.mean, together.mean[channel])
            assert cases.same_bits(alone.var, together.var[channel])


@pytest.mark.parametrize("norm", ["batch", "batch eval", "instance", "instance eval", "group"])
@pytest.mark.parametrize("layout", ["C", "F", "channels-last", "stepped", "reversed"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e9])  # the last moves where the channel's sums are centered
def test_bad_channel_leaves_the_others(norm, layout, bad, rng):
    for shape in ((3, 6, 5, 7), (300, 6, 3), (2, 18, 4100)):
        x = cases.LAYOUTS[layout](cases.draw(rng, shape))
        call = cases.make_call(norm, x, rng, num_groups=shape[1])
        plain = call.run(x)
        spoiled = x.copy(order="K")
        spoiled[0, 2, -1] = bad
        if np.isfinite(bad):
            spoiled[:, 2] += bad
        got = call.run(spoiled)
        assert cases.same_bits(np.delete(got, 2, 1), np.delete(plain, 2, 1))
        if np.isnan(bad):
            assert np.isnan(got[0, 2, -1]).all()
        if norm == "batch" and np.isnan(bad):
            assert np.isnan(got[:, 2]).all()


def test_bad_channel_leaves_other_running_statistics(rng):
    x = cases.draw(rng, (3, 4, 50))
    results = []
    for value in (x[0, 1, 0], np.nan):
        x[0, 1, 0] = value
        mean, var = np.zeros(4, np.float32), np.ones(4, np.float32)
        fn.batch_norm(x, mean, var, training=True)
        results.append(np.delete([mean, var], 1, 1))
    assert cases.same_bits(*results)
    assert np.isnan([mean[1], var[1]]).all()
