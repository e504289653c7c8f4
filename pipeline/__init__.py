"""Bytes on disk -> an augmented, normalised, channels-last batch. Knows no network.

Rooms, from the ground up; each imports from those above it in this list, and none from those below:

tiff       the bytes of an image file -> what it holds, proven, or why it is refused
storage    where bytes lie: folders, .zip archives, packed files
data       Kaggle's folder or .zip -> tables of patches, their split, the submission
pcam       PatchCamelyon's HDF5 files -> the same tables
sources    a table of patches -> their pixels, by row: four sources of the same bits
batches    a source -> batches for the network: plan, engine, feeder, loader
synthetic  made-up tissue in the layouts of both data sets

Beside them:

settings   all options of the input path
dataset    --data-dir -> tables of patches
open       a table of patches -> source and engine, chosen and told
convert    a copy of a data set as Kaggle's TIFFs
run_files  what training and report both know of a run folder

One patch's way from the disk to the loss: ``dataset.open_dataset`` -> ``open.open_source`` -> ``batches.loader`` ->
``training.loop``.
"""
