"""Plain loops as machine code: numba compiles a function when it is first called and keeps the result on disk.

Vectorised numpy goes through a batch of windows some hundred times; a loop goes through it once. What is kept lies in
`__pycache__` beside the module, else in the user's cache folder (`NUMBA_CACHE_DIR` names another), by processor and
numpy version; where nothing can be written, or what is kept cannot be read, every process compiles for itself.

numba keeps a function by its own file's date and size, and takes what the function reads from elsewhere for constant:
a compiled function may read its arguments and its own module, never a name that the module imported (a test looks).
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar, cast

import numba
from numba.core.caching import FunctionCache

P = ParamSpec("P")
R = TypeVar("R")


class _Kept(FunctionCache):
    """What numba keeps, of which none is needed. Its own raises on a full disk, and, in every process until somebody
    removes it, on a file that a crash of the machine left empty: numba renames what it writes without a sync.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """None where there is none that can be read."""
        try:
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]  # of numba's
        except Exception:  # pickle's may be any
            with suppress(OSError):
                self.flush()  # type: ignore[no-untyped-call]  # as above
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Where there is room."""
        with suppress(OSError):
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]  # as above


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """The function, without the interpreter's lock while it runs, and without checks: an index must be within bounds.

    A division by zero is no exception, as in numpy. Safe to call from several threads.
    """
    made: Any = numba.njit(function, nogil=True, error_model="numpy")
    with suppress(RuntimeError):  # no folder to keep it in
        # Where numba's `cache=True` puts its own.
        made._cache = _Kept(function)  # type: ignore[no-untyped-call]  # noqa: SLF001 - as above
    return cast("Callable[P, R]", made)
