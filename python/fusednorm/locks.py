"""Locks that a forked child can take."""

import os
import threading
import weakref


class Guarded:
    """An object with a lock: a new one in a forked child, where one that another thread held would never be released.

    The lock is reentrant, since a signal's handler may use the object that it has interrupted.
    """

    _lock: threading.RLock

    def _add_lock(self) -> None:
        self._lock = threading.RLock()
        _guarded[id(self)] = self  # not in a WeakSet: a subclass may define equality


_guarded: "weakref.WeakValueDictionary[int, Guarded]" = weakref.WeakValueDictionary()


def _renew() -> None:
    for guarded in list(_guarded.values()):
        guarded._add_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
