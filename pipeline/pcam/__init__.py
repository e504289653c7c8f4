"""PatchCamelyon as it is published: HDF5 files -> the same tables of patches as Kaggle's.

In: a folder of ``camelyonpatch_level_2_split_*``. Out: a ``Dataset`` whose pixels were packed once. Open ``folder``
first; ``hdf5`` reads and checks the files, ``pack`` packs them in one pass, ``slide_map`` finds the slides of Kaggle's
patches in them.
"""
