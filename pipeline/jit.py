"""How the project's compiled functions are compiled."""

from collections.abc import Callable

from numba import njit


def jit(function: Callable) -> Callable:
    """Compile for use in many threads at once; what is compiled is kept between processes where there is room for it.

    numba refuses to keep anything, and with it to compile, where neither the project's folder nor the user's cache
    can be written to, as in some containers.
    """
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:
        return njit(nogil=True)(function)
