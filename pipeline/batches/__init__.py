"""Batches for the network: a source -> x [B, H, W, 3] normalised, y [B, 1], in a known order, the same on every engine.

In: a source, labels, a seed. Out: ``Loader``, an iterator of batches. Open ``plan`` first (everything random about an
epoch), then ``loader``. ``feeder`` reads ahead; ``engines`` says who augments: DALI's ``graph`` (with ``cpu_kernel`` on
a CPU), or on a GPU ``triton_engine`` with its one ``triton_kernel``.
"""
