"""What numba compiles for ``pipeline.storage.bus_guard``: the handler of SIGBUS."""

import mmap
import signal

from numba import carray, cfunc, types
from numba.extending import intrinsic

# A handler is given nothing of ours, and what is compiled is kept between processes: so what it looks into lies in a
# page of its own at an address that is always the same, where Linux puts nothing by itself.
SLOTS_AT = 0x1234_5678_0000
SLOTS, WORDS = 64, 3  # maps at a time; of each: faults counted, where it begins, where it ends
BEFORE_AT = SLOTS_AT + 8 * SLOTS * WORDS  # struct sigaction: who handled the signal before
_SI_ADDR = 16  # byte of struct siginfo at which the fault's address stands, on 64-bit Linux
_PROTECTION, _FLAGS = mmap.PROT_READ, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10  # MAP_FIXED
_PAGE, _BUS = mmap.PAGESIZE, int(signal.SIGBUS)

map_page = types.ExternalFunction(
    "mmap", types.intp(types.intp, types.uintp, types.intc, types.intc, types.intc, types.intp)
)
sigaction = types.ExternalFunction("sigaction", types.intc(types.intc, types.intp, types.intp))


@intrinsic
def pointer(typing_context, address):
    """An address as a pointer to int64."""
    kind = types.CPointer(types.int64)
    return kind(types.intp), lambda context, builder, _, values: builder.inttoptr(
        values[0], context.get_value_type(kind)
    )


def handle(signum, info, context):
    """Put a page of zeros where a guarded map could not be read, and count it; other faults go to who was before."""
    address = carray(pointer(info + _SI_ADDR), 1)[0]
    slots = carray(pointer(SLOTS_AT), SLOTS * WORDS)
    for slot in range(SLOTS):
        if slots[slot * WORDS + 1] <= address < slots[slot * WORDS + 2]:
            start = address & -_PAGE
            if map_page(start, _PAGE, _PROTECTION, _FLAGS, -1, 0) == start:
                slots[slot * WORDS] += 1
                return
    sigaction(_BUS, BEFORE_AT, 0)  # not ours: the instruction fails again, and the other one is told


_SIGNATURE = types.void(types.intc, types.intp, types.intp)
try:
    on_bus_error = cfunc(_SIGNATURE, cache=True)(handle)
except RuntimeError:  # nowhere to keep it: see system.compiler
    on_bus_error = cfunc(_SIGNATURE)(handle)
