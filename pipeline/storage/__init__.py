"""Where bytes lie: image files in a folder or in an unextracted .zip, and packed files.

In: names. Out: their bytes, read by many threads at once. Open ``stores`` first: folder and .zip behind one interface.

``bulk_read``         many small files in one call; ``bulk_read_kernel`` is what numba compiles of it
``packfile``          the format of a packed file
``pack_once``         a packed file is made once, however many processes want it
``packed_store``      a packed file stands for the files that it was made from
``bus_guard``         a mapped file that was cut short is an error; ``bus_guard_kernel`` is what numba compiles of it
"""
