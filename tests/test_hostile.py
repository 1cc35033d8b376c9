"""Arguments that lie, arrays larger than any memory, subclasses: an error or the right result, and no memory but their own."""

import os
from contextlib import suppress

import cases
import fusednorm as fn
import ml_dtypes
import numpy as np
import pytest


def repeated(*shape, dtype=np.uint8):
    """Return an array of one value that is as large as its strides of 0 let it be."""
    return np.lib.stride_tricks.as_strided(np.ones(1, dtype), shape, (0,) * len(shape))


NO_MEMORY = {
    "batch": lambda x: fn.batch_norm(x, training=True),
    "batch by sample": lambda x: fn.batch_norm(x, training=True, channel_axis=0),
    "batch in float16": lambda x: fn.batch_norm(x, training=True, dtype=np.float16),
    "layer": lambda x: fn.layer_norm(x, x.shape[-1]),
    "rms": lambda x: fn.rms_norm(x, x.shape[-1]),
    "group": lambda x: fn.group_norm(x, 1),
    "instance": lambda x: fn.instance_norm(x, channel_axis=0),
    "sum": lambda x: fn.add_layer_norm(x, x, x.shape[-1]),
    "moments": lambda x: fn.moments(x, ()),
    "states": lambda x: fn.RunningMoments(int(np.argmax(x.shape))).update(x),
}


@pytest.mark.skipif("FUSEDNORM_SANITIZED" in os.environ, reason="the sanitizer ends the process instead of throwing")
@pytest.mark.parametrize("shape", [(2, 2**50), (2**50, 2), (2, 2**60), (2, 2**61), (2**61, 2), (2**60, 7)], ids=str)
@pytest.mark.parametrize("call", NO_MEMORY.values(), ids=NO_MEMORY)
def test_results_that_no_memory_holds(call, shape):
    """Sizes in bytes, and how many parameters there are, are beyond what 64 bits count."""
    with pytest.raises(MemoryError):
        call(repeated(*shape))


@pytest.mark.skipif("FUSEDNORM_SANITIZED" in os.environ, reason="the sanitizer ends the process instead of throwing")
@pytest.mark.parametrize("parts", range(2, 8))
def test_numbers_of_statistics_beyond_64_bits(parts):
    """So many of each, times `parts`, is a small number modulo 2^64."""
    x = repeated(2**64 // parts + 1) if parts > 2 else repeated(2**63 - 1)
    with pytest.raises(MemoryError):
        fn.moments(x, ())
    with pytest.raises(MemoryError):
        fn.RunningMoments(0).update(x)
    with pytest.raises(MemoryError):
        fn.batch_norm(x[None], np.zeros(1), np.ones(1), channel_axis=1)


@pytest.mark.parametrize("dtype", ["u1", *cases.FLOATS])
def test_moments_of_a_value_repeated_without_end(dtype):
    mean, var = fn.moments(repeated(2**20, 2**20, dtype=dtype))
    assert (mean, var) == (1, 0)
    assert fn.RunningMoments(None).update(repeated(2**20, 2**20, dtype=dtype)).count == 2**40


class Changing:
    """Another array each time that it is asked; a number too, as tensors are."""

    def __init__(self, *arrays):
        self.arrays = list(arrays)

    def __array__(self, dtype=None, copy=None):
        return self.arrays.pop(0)

    def __float__(self):
        return 0.0


@pytest.mark.parametrize("name", ["running_mean", "running_var"])
def test_running_statistics_that_shrink(name):
    """What gives another array each time cannot be updated."""
    first, second = np.full(4096, 0.5), np.full(1, 0.5)
    running = {"running_mean": np.zeros(4096), "running_var": np.ones(4096)} | {name: Changing(first, second)}
    with pytest.raises(TypeError, match=rf"^batch_norm: {name}: expected an array that can be updated in place, got Changing"):
        fn.batch_norm(np.ones((3, 4096)), **running, training=True)
    assert second[0] == 0.5
    assert (first == 0.5).all()
    assert name == "running_mean" or not running["running_mean"].any()


class Lending:
    """Gives its memory, or copies of it; a number too, as tensors are."""

    def __init__(self, array, copies):
        self.array, self.copies = array, copies

    def __array__(self, dtype=None, copy=None):
        return self.array.copy() if self.copies else self.array

    def __float__(self):
        return 0.0


def test_running_statistics_of_other_libraries(rng):
    """Memory that is lent is updated; a copy, whose update would be lost, is refused."""
    x, mean, var = cases.draw(rng, (8, 3)), np.zeros(3), np.ones(3)
    fn.batch_norm(x, Lending(mean, False), Lending(var, False), training=True, momentum=1)
    np.testing.assert_allclose(mean, x.mean(0, np.float64), rtol=1e-12)
    with pytest.raises(
        TypeError, match="running_var: expected an array that can be updated in place, got Lending, which gives"
    ):
        fn.batch_norm(x, mean, Lending(var, True), training=True)
    assert fn.batch_norm(x, Lending(mean, True), Lending(var, True)).shape == x.shape


FLAGS = {
    "batch_norm: training": lambda x, flag: fn.batch_norm(x, np.zeros(3), np.ones(3), training=flag),
    "instance_norm: use_input_stats": lambda x, flag: fn.instance_norm(x[None], use_input_stats=flag),
    "moments: keepdims": lambda x, flag: fn.moments(x, keepdims=flag),
    "layer_norm: return_stats": lambda x, flag: fn.layer_norm(x, 3, return_stats=flag),
    "GroupNorm: training": lambda x, flag: fn.GroupNorm(1, 3).train(flag),
    "BatchNorm1d: training": lambda x, flag: setattr(fn.BatchNorm1d(3), "training", flag),
    "BatchNorm1d: track_running_stats": lambda x, flag: fn.BatchNorm1d(3, track_running_stats=flag),
    "InstanceNorm1d: affine": lambda x, flag: fn.InstanceNorm1d(3, affine=flag),
    "InstanceNorm2d: bias": lambda x, flag: fn.InstanceNorm2d(3, bias=flag),
    "GroupNorm: affine": lambda x, flag: fn.GroupNorm(1, 3, affine=flag),
    "GroupNorm: bias": lambda x, flag: fn.GroupNorm(1, 3, bias=flag),
    "LayerNorm: bias": lambda x, flag: fn.LayerNorm(3, bias=flag),
    "RMSNorm: elementwise_affine": lambda x, flag: fn.RMSNorm(3, elementwise_affine=flag),
    "RMSNorm.load_state_dict: strict": lambda x, flag: fn.RMSNorm(3).load_state_dict({"weight": x[0]}, flag),
    "RunningMoments.update: skipna": lambda x, flag: fn.RunningMoments().update(x, skipna=flag),
    "fuse_conv_bn_weights: transpose": lambda x, flag: fn.fuse_conv_bn_weights(
        np.ones((3, 3, 1)), None, x[0], x[0], 0, None, None, flag
    ),
}


@pytest.mark.parametrize("name", FLAGS)
def test_flags_have_a_truth_value(name):
    x = np.ones((4, 3))
    for flag in (None, "False", b"", np.str_("False"), [], [True], np.ones(3)):
        with pytest.raises(TypeError, match=rf"^{name}: expected a bool, got "):
            FLAGS[name](x, flag)
    for true in (True, 1, np.True_, np.array(True), np.array([1])):
        FLAGS[name](x, true)


def test_flags_are_kept_as_what_they_mean():
    layer = fn.BatchNorm1d(3, affine=0, track_running_stats=np.array(False))
    assert (layer.affine, layer.weight, layer.track_running_stats, layer.running_mean) == (False, None, False, None)
    assert layer.train(np.True_).training is True
    assert fn.moments(np.ones((4, 3)), keepdims=np.array([1])).mean.shape == (1, 1)


class Exporter:
    """What `__dlpack__` gives is no capsule."""

    def __dlpack__(self, **keywords):
        return 5

    def __dlpack_device__(self):
        return (1, 0)


@pytest.mark.parametrize("x", [Exporter(), Changing(None), Changing([1.0]), Changing("a")], ids=lambda x: type(x).__name__)
def test_protocols_that_lie(x):
    with pytest.raises((TypeError, ValueError), match=r"^layer_norm: x: expected an array or what .* can read, got "):
        fn.layer_norm(x, 6)


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_what_is_not_the_arguments_fault_is_raised_as_it_is(error):
    class Raising:
        def __array__(self, dtype=None, copy=None):
            raise error

    with pytest.raises(error):
        fn.layer_norm(Raising(), 6)


@pytest.mark.parametrize("error", [MemoryError, RecursionError, KeyboardInterrupt])
@pytest.mark.parametrize("asked", ["__array__", "detach"])
def test_what_layers_read_raises_it_as_it_is(error, asked):
    def ask(self, *arguments, **keywords):
        raise error

    raising, layer = type("Raising", (), {asked: ask})(), fn.BatchNorm1d(3)
    calls = [lambda: setattr(layer, "weight", raising), lambda: layer.load_state_dict({"weight": raising}, strict=False)]
    if asked == "__array__":
        calls += [lambda: layer(raising), lambda: fn.GroupNorm(1, 3)(raising), lambda: layer(np.ones((4, 3)), residual=raising)]
    for call in calls:
        with pytest.raises(error):
            call()
    assert layer.num_batches_tracked == 0


def test_arguments_without_repr():
    class Silent:
        def __repr__(self):
            raise RuntimeError

    for name in ("eps", "activation", "dtype"):
        with pytest.raises(TypeError, match=rf"^rms_norm: {name}: expected .*, got a value of type Silent$"):
            fn.rms_norm(np.ones((2, 3)), 3, **{name: Silent()})


class Odd(np.ndarray):
    """Everything that a subclass can change is changed."""

    shape = strides = dtype = property(lambda self: None)

    def astype(self, *arguments, **keywords):
        return np.zeros(1)

    def __array_function__(self, *arguments, **keywords):
        raise RuntimeError


@pytest.mark.parametrize("kind", ["f4", ">f4", "f2", ml_dtypes.bfloat16])
def test_subclasses_are_their_memory(kind, rng):
    """As np.asarray has it: the mask of a masked array does not count, `out` keeps its class."""
    x = cases.draw(rng, (3, 64)).astype(kind)
    arrays = {"weight": np.ones(64, kind), "running_mean": np.ones(64, kind), "running_var": np.ones(64, kind)}
    want = fn.batch_norm(x, **{k: a.copy() for k, a in arrays.items()}, training=True, residual=x)
    got = fn.batch_norm(x.view(Odd), **{k: a.view(Odd) for k, a in arrays.items()}, training=True, residual=x.view(Odd))
    assert type(got) is np.ndarray
    assert cases.same_bits(got, want)
    memory = np.zeros(x.size + 1, want.dtype)
    memory[:-1] = x.ravel()
    out = memory[1:].reshape(x.shape)
    view = out.view(Odd)
    assert fn.layer_norm(memory[:-1].reshape(x.shape), 64, out=view) is view
    np.testing.assert_array_equal(out.astype("f8"), fn.layer_norm(x, 64).astype("f8"))


LAYERS = {
    "batch": lambda: fn.BatchNorm1d(4),
    "batch, eval": lambda: fn.BatchNorm1d(4).eval(),
    "group": lambda: fn.GroupNorm(2, 4),
    "instance": lambda: fn.InstanceNorm1d(4, affine=True),
    "layer": lambda: fn.LayerNorm(5),
    "rms": lambda: fn.RMSNorm(5),
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_subclasses_are_their_memory_to_layers(make, rng):
    x, layer, plain = cases.draw(rng, (3, 4, 5)), make(), make()
    layer.weight = layer.weight.view(Odd)
    assert type(layer.weight) is np.ndarray
    np.testing.assert_array_equal(layer(x.view(Odd), residual=x.view(Odd)), plain(x, residual=x))
    for got, want in zip(layer.backward(x.view(Odd), x.view(Odd)), plain.backward(x, x), strict=True):
        np.testing.assert_array_equal(got, want)
    plain.load_state_dict({name: array.view(Odd) for name, array in layer.state_dict().items()})


def test_subclasses_are_their_memory_to_statistics(rng):
    x = cases.draw(rng, (4, 3))
    got = fn.RunningMoments().update(x.view(Odd), skipna=True)
    np.testing.assert_array_equal(got.mean, fn.RunningMoments().update(x).mean)


def test_one_sample_in_a_matrix(rng):
    x = cases.draw(rng, (3, 4))
    matrix, layer = x.copy().view(np.matrix), fn.InstanceNorm1d(3)
    np.testing.assert_array_equal(layer(matrix, residual=matrix), layer(x, residual=x))
    np.testing.assert_array_equal(layer.backward(matrix, matrix)[0], layer.backward(x, x)[0])
    assert layer(x, out=matrix) is matrix
    np.testing.assert_array_equal(matrix, layer(x))


def test_matrix_and_masked_array(rng):
    x = cases.draw(rng, (3, 4))
    want = fn.layer_norm(x, 4)
    for other in (x.copy().view(np.matrix), np.ma.masked_array(x.copy(), x > 3)):
        got = fn.layer_norm(other, 4)
        assert type(got) is np.ndarray
        np.testing.assert_array_equal(got, want)
        assert fn.layer_norm(other, 4, out=other) is other


def test_as_many_dimensions_as_numpy_has():
    ndim = 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32
    shape = tuple(2 if i % 5 == 0 else 1 for i in range(ndim))
    x = np.arange(2.0 ** sum(n > 1 for n in shape)).reshape(shape)
    flat = x.reshape(2, -1)
    np.testing.assert_array_equal(fn.group_norm(x, 1).ravel(), fn.group_norm(flat, 1, channel_axis=1).ravel())
    np.testing.assert_array_equal(fn.layer_norm(x[..., ::-1], shape[1:]).ravel(), fn.layer_norm(flat, flat.shape[1]).ravel())
    assert fn.moments(x.T, keepdims=True).mean == x.mean()
    y, total = fn.add_rms_norm(x, x.astype("f4"), shape)
    assert y.shape == total.shape == shape


def test_weight_is_out_and_running_mean_is_x(rng):
    x = cases.draw(rng, (4, 6))
    out = cases.draw(rng, (4, 6))
    want = fn.layer_norm(x, 6, out[0].copy())
    np.testing.assert_array_equal(fn.layer_norm(x, 6, out[0], out=out), want)
    want = fn.batch_norm(x.copy(), training=True)
    np.testing.assert_array_equal(fn.batch_norm(x, x[0], np.ones(6), training=True), want)


def test_one_array_for_both_running_statistics(rng):
    """Both are read before either is written; the variance is written last."""
    x, both, var = cases.draw(rng, (4, 6)), np.ones(6), np.ones(6)
    fn.batch_norm(x, np.ones(6), var, training=True)
    fn.batch_norm(x, both, both, training=True)
    np.testing.assert_array_equal(both, var)


@pytest.mark.parametrize("kind", ["f4", "f8"])
@cases.every_norm
def test_unaligned_parameters(norm, kind, rng):
    """Of the very type that is computed with: they are copied all the same. The sanitizer sees it if not."""
    x = cases.draw(rng, (4, 6, 6), kind)
    call = cases.make_call(norm, x, rng)
    given = {n: getattr(call, n).astype(kind) for n in ("weight", "bias", "mean", "var") if getattr(call, n) is not None}
    want = cases.replace(call, **given).run(x)
    got = cases.replace(call, **{n: cases.unaligned(a) for n, a in given.items()}).run(x)
    assert cases.same_bits(got, want)


class Raising:
    """Raises what it is given, whatever it is asked for."""

    def __init__(self, error, *names):
        self.error = error
        self.__class__ = type("Raising", (Raising,), dict.fromkeys(names, Raising.ask))

    def ask(self, *args):
        raise self.error


class HasDtype:
    def __init__(self, error):
        self.error = error

    @property
    def dtype(self):
        raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError, RecursionError])
def test_errors_of_the_users_objects_go_on(error, rng):
    x = cases.draw(rng, (3, 4))
    for call in (
        lambda: fn.layer_norm(x, 4, eps=Raising(error(), "__float__")),
        lambda: fn.moments(x, Raising(error(), "__index__")),
        lambda: fn.moments(x, Raising(error(), "__len__", "__getitem__")),
        lambda: fn.layer_norm(x, Raising(error(), "__index__")),
        lambda: fn.batch_norm(x, training=None if error is RuntimeError else Raising(error(), "__bool__"), eps=-1),
        lambda: fn.layer_norm(x, 4, dtype=None if error is RuntimeError else HasDtype(error()), eps=-1),
        lambda: fn.layer_norm(x, 4, weight=None if error is RuntimeError else Raising(error(), "__array__"), eps=-1),
    ):
        with pytest.raises((error, ValueError)) as caught:
            call()
        assert caught.type is error or "eps" in str(caught.value)


@pytest.mark.parametrize("kind", [list, tuple, np.array, lambda v: range(v[0], v[-1] + 1), lambda v: np.array(v, object)])
def test_any_sequence_of_integers(kind, rng):
    """Those that make their elements when they are asked keep none of them alive."""
    x = cases.draw(rng, (2, 300, 301))
    for _ in range(50):
        np.testing.assert_array_equal(fn.layer_norm(x, kind([300, 301])), fn.layer_norm(x, (300, 301)))
        np.testing.assert_array_equal(fn.moments(x, kind([1, 2])), fn.moments(x, (1, 2)))
        with pytest.raises(TypeError, match="normalized_shape: expected an integer"):
            fn.layer_norm(x, np.ma.masked_array(x, True))


class Ending:
    """Says that it has two elements, and has one."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise NotImplementedError if index else ValueError


@pytest.mark.parametrize("axes", [memoryview(np.zeros((2, 2), np.int64)), Ending()], ids=lambda a: type(a).__name__)
def test_sequences_that_do_not_give_their_elements(axes):
    with pytest.raises(TypeError, match="axis: expected an integer or a sequence of integers"):
        fn.moments(np.ones((2, 3)), axes)


@pytest.mark.parametrize("text", ["", b"\x01", bytearray(b"\x00"), "01"])
def test_text_is_no_sequence_of_integers(text):
    with pytest.raises(TypeError, match="axis: expected an integer or a sequence of integers"):
        fn.moments(np.ones((2, 3)), text)
    with pytest.raises(TypeError, match="normalized_shape: expected an integer or a sequence of integers"):
        fn.layer_norm(np.ones((2, 1)), text)


class Resizing:
    """Takes the memory of other arguments away when it is asked for what it is."""

    def __init__(self, *arrays):
        self.arrays, self.own = arrays, np.ones((512, 4096), "f4")

    def resize(self):
        for array in self.arrays:
            array.resize((1, 1), refcheck=False)

    def __array__(self, dtype=None, copy=None):
        self.resize()
        return self.own

    def __float__(self):
        self.resize()
        return 0.5

    def __index__(self):
        self.resize()
        return 1

    def __bool__(self):
        self.resize()
        return True

    @property
    def dtype(self):
        self.resize()
        return np.dtype("f4")


BY_CHANNEL = ("weight", "eps", "channel_axis", "residual", "dtype", "return_stats")
TRAINED = ("momentum", "running_mean", "bias", *BY_CHANNEL)
SHRINKING = {
    fn.batch_norm: ("training", *TRAINED),
    fn.instance_norm: ("use_input_stats", *TRAINED),
    fn.group_norm: ("num_groups", *BY_CHANNEL),
    fn.layer_norm: ("normalized_shape", "weight", "bias", "eps", "residual", "dtype", "return_stats"),
    fn.add_layer_norm: ("residual", "normalized_shape", "weight", "bias", "eps"),
    fn.moments: ("axis", "ddof", "keepdims", "dtype"),
    fn.batch_norm_backward: ("grad", "running_mean", "weight", "training", "eps", "channel_axis"),
    fn.group_norm_backward: ("grad", "num_groups", "weight", "eps", "channel_axis"),
    fn.layer_norm_backward: ("grad", "normalized_shape", "weight", "eps"),
}


@pytest.mark.parametrize(
    ("function", "name"),
    [(function, name) for function, names in SHRINKING.items() for name in names],
    ids=lambda a: getattr(a, "__name__", a),
)
def test_arguments_that_take_away_the_memory_of_others(function, name):
    """They are asked first: what is left is an error, or one value's result."""
    x, out, other = (np.ones((512, 4096), "f4") for _ in range(3))
    code = function.__code__
    known = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    arguments = {"training": True, "num_groups": 1, "normalized_shape": 4096, "grad": other, "residual": other, "out": out}
    arguments = {key: value for key, value in arguments.items() if key in known} | {name: Resizing(x, out, other)}
    result = np.ones(1)
    with suppress(ValueError):
        result = function(x, **arguments) if code.co_posonlyargcount else function(x=x, **arguments)
    assert (result[0] if isinstance(result, tuple) else result).size == 1
    assert x.shape == out.shape == other.shape == (1, 1)
