"""How a function reaches the extension."""

from collections.abc import Callable
from functools import update_wrapper
from typing import Any, TypeVar, cast

from fusednorm import _core

F = TypeVar("F", bound=Callable[..., Any])


def direct(function: F) -> F:
    """Return what does the same as a function that hands its arguments, in their order, to the extension's of its name.

    The arguments are bound by the extension: on a small array Python's own frame would take a fifth of the call.
    """
    called: Any = _core.direct(function, getattr(_core, function.__name__))
    return cast(F, update_wrapper(called, function))
