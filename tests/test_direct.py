"""Functions whose arguments the extension binds: they must be the functions of Python's that they stand for."""

import copy
import gc
import inspect
import pickle
import typing
import weakref

import fusednorm as fn
import numpy as np
import pytest
from fusednorm import _core

FUNCTIONS = [f for f in vars(fn).values() if isinstance(f, type(fn.batch_norm))]

by_name = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)


def test_all_norms_are_direct():
    assert {f.__name__ for f in FUNCTIONS} == {name for name in fn.functional.__all__ if "norm" in name}


@by_name
def test_parameters_are_those_of_the_extension_in_their_order(function):
    core = inspect.signature(getattr(_core, function.__name__))
    assert list(inspect.signature(function).parameters) == list(core.parameters)


@by_name
def test_looks_like_a_function(function):
    python = function.__wrapped__
    assert inspect.isroutine(function)
    assert (function.__name__, function.__doc__, function.__module__) == (python.__name__, python.__doc__, python.__module__)
    assert inspect.signature(function) == inspect.signature(python)
    assert repr(function) == repr(python)
    assert (function.__code__, function.__kwdefaults__) == (python.__code__, python.__kwdefaults__)
    with pytest.raises(AttributeError, match="nothing"):
        function.nothing  # noqa: B018
    assert typing.get_type_hints(function) == typing.get_type_hints(python, vars(inspect.getmodule(python)))


@by_name
def test_copies_are_the_function(function):
    assert pickle.loads(pickle.dumps(function)) is function
    assert copy.copy(function) is copy.deepcopy(function) is function
    assert weakref.ref(function)() is function


def anything(first, second, /, third, fourth=4, *, fifth, sixth=6):
    """Hand six arguments to the extension: its merge takes two, so nothing is called."""
    return first, second, third, fourth, fifth, sixth


# What Python binds, and what it refuses; `anything` gives what was bound.
CALLS = [
    ((), {}),
    ((1,), {}),
    ((1, 2, 3), {}),
    ((1, 2, 3, 4, 5), {"fifth": 0}),
    ((1, 2), {"third": 3}),
    ((1, 2, 3), {"third": 3, "fifth": 0}),
    ((1,), {"second": 2, "third": 3, "fifth": 0}),
    ((1, 2, 3), {"fifth": 0, "seventh": 0}),
]


@pytest.mark.parametrize(("positional", "named"), CALLS, ids=str)
def test_refuses_what_python_refuses(positional, named):
    with pytest.raises(TypeError) as wanted:
        anything(*positional, **named)
    with pytest.raises(TypeError) as got:
        _core.direct(anything, getattr)(*positional, **named)
    assert str(got.value) == str(wanted.value)


class Thing:
    here = "found"


def look(thing, /, attribute, otherwise="nothing"):
    return getattr(thing, attribute, otherwise)


def look_named(thing, *, attribute="there", otherwise):
    return getattr(thing, attribute, otherwise)


def outcome(function, arguments, named):
    try:
        return function(*arguments, **named)
    except TypeError as error:
        return str(error)


@pytest.mark.parametrize("function", [look, look_named])
@pytest.mark.parametrize("positional", [1, 2, 3])
@pytest.mark.parametrize("names", [(), ("attribute",), ("otherwise",), ("attribute", "otherwise"), ("otherwise", "attribute")])
@pytest.mark.parametrize("interned", [True, False])
def test_binds_as_python_does(function, positional, names, interned):
    # getattr is of the same calling convention as the extension's functions, and says what came in which place.
    values = {"attribute": "here", "otherwise": "other"}
    named = {name if interned else "".join([name[:2], name[2:]]): values[name] for name in names}
    arguments = (Thing, "there", "else")[:positional]
    assert outcome(_core.direct(function, getattr), arguments, named) == outcome(function, arguments, named)


def test_is_a_method_where_a_class_holds_it():
    class Framework:
        look = _core.direct(look, getattr)
        here = "of the object"

    assert Framework().look("here") == "of the object"
    assert Framework.look(Thing, "here") == "found"


def test_forgotten_functions_are_freed():
    def function(x, /):
        return x

    made = _core.direct(function, getattr)
    made.itself = made
    gone = weakref.ref(made)
    del made
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("arguments", [(len, getattr), (look, look), (look, print), (look, None), (None, getattr)])
def test_takes_only_a_function_of_pythons_and_one_of_the_extensions(arguments):
    with pytest.raises(TypeError, match="direct: expected a function"):
        _core.direct(*arguments)


def test_takes_as_many_parameters_as_it_has_room_for():
    names = [f"p{i}" for i in range(17)]
    scope = {}
    exec(f"def many({', '.join(names)}): pass\ndef most({', '.join(names[:16])}): pass", scope)
    assert _core.direct(scope["most"], getattr)
    with pytest.raises(ValueError, match="at most 16 parameters, got 17"):
        _core.direct(scope["many"], getattr)


def test_results_are_those_of_pythons_function():
    x, weight = np.arange(12.0).reshape(3, 4), np.arange(4.0)
    named = {"eps": 0.5, "weight": weight, "normalized_shape": 4}
    assert np.array_equal(fn.layer_norm(x, **named), fn.layer_norm.__wrapped__(x, **named))
