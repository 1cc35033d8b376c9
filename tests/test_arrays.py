"""What goes in and what comes out: `out=`, memory order, dtypes, odd memory, empty arrays, tensors and other objects."""

import itertools

import cases
import fusednorm as fn
import numpy as np
import pytest
from processes import output_of


def placed(layout, like):
    """Return an array of that layout with NaN in it, to be written."""
    return cases.LAYOUTS[layout](np.full(like.shape, np.nan, like.dtype))


@cases.every_norm
@cases.every_float
@pytest.mark.parametrize("layout", cases.LAYOUTS)
def test_out_in_every_layout(norm, dtype, layout, rng):
    for shape in ((2, 6, 5, 7), (9, 4, 300)):
        x = cases.LAYOUTS[layout](cases.draw(rng, shape, dtype))
        call = cases.make_call(norm, x, rng)
        expected = call.reference(x)
        for other in cases.WRITABLE:
            out = placed(other, x)
            assert call.run(x, out=out) is out
            expected.check(out)


@cases.every_norm
@pytest.mark.parametrize("layout", cases.WRITABLE)
def test_in_place(norm, layout, rng):
    x = cases.LAYOUTS[layout](cases.draw(rng, (2, 6, 5, 7)))
    call = cases.make_call(norm, x, rng)
    expected = call.reference(x)
    assert call.run(x, out=x) is x
    expected.check(x)


@cases.every_norm
def test_out_leaves_the_memory_between(norm, rng):
    x = cases.draw(rng, (3, 4, 17))
    memory = np.full((3, 4, 40), -7, np.float32)
    cases.make_call(norm, x, rng).run(x, out=memory[..., 3:37:2])
    memory[..., 3:37:2] = -7
    assert (memory == -7).all()


@cases.every_norm
@pytest.mark.parametrize("odd", [cases.unaligned, lambda a: a.astype(a.dtype.newbyteorder(">"))], ids=["unaligned", "swapped"])
def test_odd_out(norm, odd, rng):
    x = cases.draw(rng, (3, 4, 17))
    call, out = cases.make_call(norm, x, rng), odd(np.full((3, 4, 17), np.nan, np.float32))
    assert call.run(x, out=out) is out
    np.testing.assert_array_equal(out, call.run(x))


@cases.every_norm
@pytest.mark.parametrize("layout", cases.DENSE)
def test_fresh_result_keeps_the_memory_order(norm, layout, rng):
    for shape in cases.SHAPES.values():
        x = cases.LAYOUTS[layout](cases.draw(rng, shape))
        if norm.startswith("instance") and len(shape) < 3:
            continue
        y = cases.make_call(norm, x, rng).run(x)
        assert y.strides == np.empty_like(x).strides
        assert type(y) is np.ndarray
        assert y.flags.owndata
        assert y.flags.writeable


@pytest.mark.parametrize("n", [1 << 4, 1 << 10])
def test_a_result_can_be_made_read_only_and_writeable_again(n):
    """Small ones are NumPy's own memory, large ones lie in memory that is used again."""
    y = fn.layer_norm(np.ones((n, 512), np.float32), 512)
    y.flags.writeable = False
    y.flags.writeable = True
    y[:] = 3
    if not y.flags.owndata:
        assert memoryview(y.base).nbytes >= y.nbytes
        with pytest.raises(TypeError, match="LargeMemory"):
            type(y.base)()


def test_memory_order_of_every_permutation(rng):
    x = cases.draw(rng, (2, 3, 4, 5))
    for order in itertools.permutations(range(4)):
        view = x.transpose(order)
        y = fn.batch_norm(view, training=True)
        assert y.strides == np.empty_like(view).strides
        cases.Call("batch").reference(view).check(y)


@cases.every_norm
@pytest.mark.parametrize("kind", cases.INTEGERS)
def test_integers_give_float64(norm, kind, rng):
    for layout in cases.LAYOUTS.values():
        x = layout(cases.draw(rng, (4, 6, 15), kind))
        call = cases.make_call(norm, x, rng)
        y = call.run(x)
        assert y.dtype == np.float64
        call.reference(x).check(y)


@cases.every_norm
@pytest.mark.parametrize("kind", cases.INTEGERS)
def test_integers_give_the_dtype_named(norm, kind, rng):
    x = cases.draw(rng, (4, 6, 15), kind)
    call, out = cases.make_call(norm, x, rng), np.empty(x.shape, np.float32)
    y = call.run(x, dtype=np.float32, out=out)
    assert y is out
    call.reference(x, np.float32).check(y)


@cases.every_norm
def test_dtype_between_floats(norm, rng):
    for source, target in itertools.product(cases.FLOATS, cases.FLOATS):
        x = cases.draw(rng, (4, 6, 15), source)
        call = cases.make_call(norm, x, rng)
        y = call.run(x, dtype=target)
        assert y.dtype == target
        # A float64 result of float32 values is as exact as float64.
        call.reference(x.astype(np.float64), target).check(y)


@cases.every_norm
@pytest.mark.parametrize("kind", ["f4", "f8", "i2", "u8"])
def test_odd_memory(norm, kind, rng):
    x = cases.draw(rng, (3, 6, 5), kind)
    call = cases.make_call(norm, x, rng)
    plain = call.run(x)
    read_only = x.copy()
    read_only.flags.writeable = False
    record = np.zeros(x.shape, [("tag", "i1"), ("value", kind)])
    record["value"] = x
    for odd in (
        x.astype(x.dtype.newbyteorder(">")),
        cases.unaligned(x),
        read_only,
        record["value"],
        x.view(np.matrix) if x.ndim == 2 else x,
    ):
        y = call.run(odd)
        assert y.dtype.isnative
        np.testing.assert_array_equal(y, plain)


@cases.every_norm
@cases.every_float
def test_empty(norm, dtype):
    shapes = [(0, 4, 3), (2, 4, 0), (0, 4, 0)] + ([(2, 0, 3)] if norm not in cases.ROW_NORMS else [])
    for shape in shapes:
        statistics = {"mean": np.zeros(shape[1]), "var": np.ones(shape[1])} if norm.endswith("eval") else {}
        call = cases.Call(norm, **statistics)
        y = call.run(np.empty(shape, dtype))
        assert y.shape == shape
        assert y.dtype == dtype
        out = np.empty(shape, dtype)
        assert call.run(np.empty(shape, dtype), out=out) is out


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_empty_batch_leaves_running_statistics(norm):
    mean, var = np.full(4, 3.0), np.full(4, 5.0)
    y = cases.Call(norm, mean=mean, var=var).run(np.empty((0, 4, 6), np.float32))
    assert y.shape == (0, 4, 6)
    np.testing.assert_array_equal(mean, 3)
    np.testing.assert_array_equal(var, 5)


# ---- other objects


class OnlyDlpack:
    """What an array library without NumPy's protocols hands over."""

    def __init__(self, array):
        self.array, self.shape = array, array.shape

    def __dlpack__(self, **keywords):
        return self.array.__dlpack__(**keywords)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class OnlyArray:
    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


@cases.every_norm
def test_objects_with_protocols(norm, rng):
    x = cases.draw(rng, (3, 6, 5))
    call = cases.make_call(norm, x, rng)
    for given in (OnlyDlpack(x), OnlyArray(x), memoryview(x)):
        y = call.run(given)
        assert cases.same_bits(y, call.run(x))


@cases.every_norm
def test_lists(norm, rng):
    x = cases.draw(rng, (3, 6, 5), np.float64)
    call = cases.make_call(norm, x, rng)
    assert cases.same_bits(call.run(x.tolist()), call.run(x))


@cases.every_norm
def test_torch_tensor(norm, rng):
    torch = pytest.importorskip("torch")
    x = cases.draw(rng, (3, 6, 5, 4))
    call = cases.make_call(norm, x, rng)
    for tensor in (torch.from_numpy(x), torch.from_numpy(x).to(memory_format=torch.channels_last)):
        y = call.run(tensor)
        assert type(y) is np.ndarray
        np.testing.assert_array_equal(y, call.run(tensor.numpy()))


def test_torch_running_statistics_are_updated_in_place():
    torch = pytest.importorskip("torch")
    x, mean, var = torch.randn(5, 3, 4), torch.zeros(3), torch.ones(3)
    fn.batch_norm(x, mean, var, training=True)
    expected = torch.zeros(3), torch.ones(3)
    torch.nn.functional.batch_norm(x, *expected, training=True)
    np.testing.assert_allclose(mean, expected[0], rtol=1e-6)
    np.testing.assert_allclose(var, expected[1], rtol=1e-6)


def test_no_copy_of_what_can_be_read_in_place():
    """A view of 4 GiB through zero strides would show a copy at once."""
    x = np.broadcast_to(np.float32([[1], [3]]), (2, 2**29))
    mean, var = fn.moments(x)
    assert (mean, var) == (2, 1)


@pytest.mark.parametrize("shape", [(3, 4), [3, 4], np.array([3, 4]), np.array([3, 4], np.int32)], ids=repr)
def test_normalized_shape_is_any_sequence(shape, rng):
    x = cases.draw(rng, (2, 3, 4))
    np.testing.assert_array_equal(fn.layer_norm(x, shape), fn.layer_norm(x.reshape(2, 12), 12).reshape(x.shape))
    np.testing.assert_array_equal(fn.rms_norm(x, np.array(4)), fn.rms_norm(x, 4))
    assert fn.moments(x, np.array([0, 1])).mean.shape == (4,)


def test_any_byte_but_zero_is_true():
    """A bool array may be a view of other memory."""
    x = np.arange(40, dtype=np.uint8).reshape(4, 10).view(bool)
    np.testing.assert_array_equal(fn.moments(x, 1).mean, [0.9, 1, 1, 1])


HELD = """
import fusednorm as fn
import numpy as np

def held():
    \"\"\"MiB of memory that the system may not take back.\"\"\"
    sizes = dict(line.split(":") for line in open("/proc/self/smaps_rollup") if line.startswith(("Rss", "LazyFree")))
    return (int(sizes["Rss"].split()[0]) - int(sizes["LazyFree"].split()[0])) / 1024

x, mean, var = np.ones((8, 1024, 1024), np.float32), np.zeros(1024, np.float32), np.ones(1024, np.float32)
fn.batch_norm(x, mean, var)
before = held()
results = [fn.batch_norm(x, mean, var) for _ in range(7)]
during = held()
del results
print(during - before, held() - before)
"""


def test_memory_of_freed_results_is_given_back():
    """All but the latest 128 MiB: of seven results of 32 MiB, four are kept."""
    try:
        with open("/proc/self/smaps_rollup") as file:
            tells = "LazyFree" in file.read()
    except OSError:
        tells = False
    if not tells:
        pytest.skip("the system does not tell")
    during, after = map(float, output_of(HELD).split())
    assert during > 180
    assert after < 128 + 16
