"""Kaggle's data set: a folder or .zip -> tables of patches; what trains and what validates; the submission.

In: ``--data-dir``. Out: ``Dataset`` with up to two ``PatchTable``, a ``Split``, a checked submission.csv. Open
``patches`` first (the tables), then ``kaggle`` (how they are read). ``find`` looks for the data set, ``image_files``
for its images, ``tables`` reads CSV files that people bring, ``split`` and ``stratify`` cut, ``submission`` writes and
checks what Kaggle is sent.
"""
