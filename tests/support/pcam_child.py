"""Opens PatchCamelyon's test split and kills itself: while it unpacks, or while it packs."""

import os
import signal
import sys

from pipeline.dataset import open_dataset
from pipeline.pcam import hdf5
from pipeline.pcam import pack as pcam_pack


def main() -> None:
    folder, cache_dir, moment = sys.argv[1:]
    if moment == "unpacking":
        inflate = hdf5._inflate
        hdf5._GZIP_BYTES = 10_000

        def inflate_some(packed, path):
            for number, block in enumerate(inflate(packed, path)):
                if number == 5:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield block

        hdf5._inflate = inflate_some
    else:
        pcam_pack._Writer.finish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    open_dataset(folder, cache_dir=cache_dir, splits=("test",))


if __name__ == "__main__":
    main()
