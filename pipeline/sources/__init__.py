"""Where pixels come from: a table of patches -> uint8 pixels [k, H, W, 3] of any rows, from four sources alike.

In: a ``PatchTable``. Out: a source (``tiff``, ``strip``, ``packed``, ``resident``) that any number of threads may read.
Open ``source`` first: the interface and the four.

``layouts``   every file, proven before anything is trained on it
``decode_cache``  what a full decode has shown, kept for the next start
``left_out``  --on-bad skip
``pack``      image files -> a packed file
``staging``   image files -> a GPU's memory, in one pass
``verify``    pixels held against their ids, a packed file against its images
"""
