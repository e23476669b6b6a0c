"""The lock around the model: one thread at a time, and queries before the encoding of videos."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class ModelLock:
    """Lets one thread at a time use the model.

    Encoding a video takes long, so it lets waiting queries pass after every batch: a query about a video whose
    features are known waits for one batch at most.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_taken = False
        self._waiting_queries = 0

    @contextmanager
    def query(self) -> Iterator[None]:
        """Hold the lock for a query."""
        with self._changed:
            self._waiting_queries += 1
            try:
                self._changed.wait_for(lambda: not self._is_taken)
                self._is_taken = True
            finally:
                self._waiting_queries -= 1
        try:
            yield
        finally:
            self._release()

    @contextmanager
    def encoding(self) -> Iterator[None]:
        """Hold the lock for the encoding of a video."""
        self._take_after_queries()
        try:
            yield
        finally:
            self._release()

    def let_queries_pass(self) -> None:
        """Give the lock to the queries that wait for it, and take it again. Call it while encoding."""
        self._release()
        self._take_after_queries()

    def _take_after_queries(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._is_taken and not self._waiting_queries)
            self._is_taken = True

    def _release(self) -> None:
        with self._changed:
            self._is_taken = False
            self._changed.notify_all()
