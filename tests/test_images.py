"""`out` in another memory order than x, images above all: the layout changes in the same pass."""

import itertools

import cases
import fusednorm as fn
import numpy as np
import pytest

MEAN, STD = np.array([0.485, 0.456, 0.406]) * 255, np.array([0.229, 0.224, 0.225]) * 255


def normalized(image):
    return (image.astype(np.float64) - MEAN) / STD


@pytest.mark.parametrize("shape", [(3, 5), (37, 1001), (1, 1), (270, 480)], ids=str)
@pytest.mark.parametrize("dtype", cases.FLOATS)
@pytest.mark.parametrize("bgr", [False, True], ids=["rgb", "bgr"])
def test_uint8_image(shape, dtype, bgr, rng):
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    if bgr:
        image = image[..., ::-1]
    planes = np.empty((3, *shape), dtype)
    fn.batch_norm(image[None], MEAN, STD**2, eps=0, channel_axis=-1, dtype=dtype, out=planes.transpose(1, 2, 0)[None])
    pixels = fn.batch_norm(image[None], MEAN, STD**2, eps=0, channel_axis=-1, dtype=dtype)[0]
    assert pixels.transpose(2, 0, 1).tobytes() == planes.tobytes()
    eps = float(cases.ml_dtypes.finfo(dtype).eps)
    np.testing.assert_allclose(pixels.astype(np.float64), normalized(image), rtol=2 * eps, atol=4e-7 if eps > 1e-10 else 1e-15)


@cases.every_norm
@pytest.mark.parametrize("source", [np.uint8, np.int64, *cases.FLOATS])
def test_every_order_to_every_order(norm, source, rng):
    for shape in ((2, 6, 5, 7), (1, 6, 40, 70), (3, 66, 35, 2)):
        plain = cases.draw(rng, shape, source)
        call = cases.make_call(norm, plain.astype(np.float64), rng)
        target = source if source in cases.FLOATS else np.float32
        want = call.run(plain, dtype=target)
        for x_order, y_order in itertools.product(itertools.permutations(range(4)), [(0, 1, 2, 3), (0, 2, 3, 1), (3, 2, 1, 0)]):
            x = ordered(plain, x_order)
            out = ordered(np.zeros(shape, target), y_order)
            assert call.run(x, dtype=target, out=out) is out
            if norm.endswith("eval"):
                np.testing.assert_array_equal(out, want)
            else:
                call.reference(x, target).check(out)


def ordered(x, order):
    """Return x with its axes in memory in that order, outermost first."""
    return np.ascontiguousarray(x.transpose(order)).transpose(np.argsort(order))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 17, 64, 100])
@pytest.mark.parametrize("epilogue", [False, True])
def test_channels_first_to_last_and_back(channels, epilogue, rng):
    for height, width in ((3, 5), (31, 67), (120, 130)):
        first = cases.draw(rng, (2, channels, height, width))
        last = ordered(first, (0, 2, 3, 1))
        call = cases.make_call("batch eval", first, rng)
        more = {"residual": cases.draw(rng, first.shape), "activation": "relu"} if epilogue else {}
        want = call.run(first, **more)
        np.testing.assert_array_equal(call.run(first, out=np.zeros_like(last), **more), want)
        np.testing.assert_array_equal(call.run(last, out=np.zeros_like(first), **more), want)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_threads_share_an_image(threads, rng, restore_threads):
    fn.set_num_threads(threads)
    image = rng.integers(0, 256, (480, 641, 3), dtype=np.uint8)
    planes = np.empty((3, 480, 641), np.float32)
    fn.batch_norm(image[None], MEAN, STD**2, eps=0, channel_axis=-1, dtype=np.float32, out=planes.transpose(1, 2, 0)[None])
    np.testing.assert_allclose(planes, normalized(image).transpose(2, 0, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "?"])
@pytest.mark.parametrize("layout", cases.LAYOUTS)
def test_statistics_of_small_integers_are_exact(kind, layout, rng):
    """Correctly rounded sums: the mean and the variance of integers, each within one rounding of its formula."""
    high = 2 if kind == "?" else np.iinfo(kind).max
    low = 0 if kind == "?" else np.iinfo(kind).min
    for shape in ((3, 4, 5), (2, 3, 70, 80), (300, 5, 17), (2, 70_001)):
        x = cases.LAYOUTS[layout](rng.choice([low, high - 1, high // 3], shape).astype(kind))
        for axes in ((0,), (0, *range(2, x.ndim)), tuple(range(x.ndim))):
            mean, var = fn.moments(x, axes)
            whole = x.astype(np.int64)
            n, total, squares = x.size // mean.size, whole.sum(axes), np.square(whole).sum(axes)
            exact = [(int(n) * int(q) - int(s) ** 2) / (n * n) for s, q in zip(total.ravel(), squares.ravel(), strict=True)]
            np.testing.assert_allclose(mean.ravel(), [int(s) / n for s in total.ravel()], rtol=2.0**-52 if kind == "?" else 0)
            np.testing.assert_allclose(var.ravel(), exact, rtol=2.0**-50 if kind == "?" else 2.0**-51)


def test_largest_sums_of_integers():
    x = np.broadcast_to(np.uint16(65535), (1 << 6, 1 << 21)).copy()
    x[:, ::2] = 65534
    mean, var = fn.moments(x)
    assert (mean, var) == (65534.5, 0.25)
