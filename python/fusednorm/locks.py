"""Locks that a forked child can take."""

import os
import threading
import weakref


class Guarded:
    """An object with a lock: a new one in a forked child, where one that another thread held would never be released."""

    _lock: threading.Lock

    def _add_lock(self) -> None:
        self._lock = threading.Lock()
        _guarded.add(self)


_guarded: "weakref.WeakSet[Guarded]" = weakref.WeakSet()


def _renew() -> None:
    for guarded in list(_guarded):
        guarded._add_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
