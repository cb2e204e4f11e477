"""Plain loops as machine code: numba compiles a function when it is first called and keeps the result on disk.

Vectorised numpy goes through a batch of windows some hundred times; a loop goes through it once. What is kept lies in
`__pycache__` beside the module, else in the user's cache folder (`NUMBA_CACHE_DIR` names another), by processor and
numpy version; where nothing can be written, every process compiles for itself.

numba keeps a function by its own file's date and size, and takes what the function reads from elsewhere for constant:
a compiled function may read its arguments and its own module, never a name that the module imported (a test looks).
"""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numba

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """The function, without the interpreter's lock while it runs, and without checks: an index must be within bounds.

    A division by zero is no exception, as in numpy. Safe to call from several threads.
    """
    made: Any
    try:
        made = numba.njit(function, cache=True, nogil=True, error_model="numpy")
    except RuntimeError:  # no folder to keep it in
        made = numba.njit(function, nogil=True, error_model="numpy")
    return cast("Callable[P, R]", made)
