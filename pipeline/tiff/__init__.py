"""TIFF files: the bytes of one -> where its pixels lie, proven; or TiffError, which says why it is refused.

In: a file's bytes, or their beginning. Out: ``StripLayout`` (its pixels are these bytes of the file), ``NeedsDecoder``
or ``NeedsPillow`` (sound, and for DALI's or Pillow's decoder), or an error. Open ``layout`` first; ``header`` reads the
tags, ``codecs`` and ``blocks`` prove compressed data, ``pillow`` takes the kinds that DALI would get wrong, ``decode``
is DALI's decoder by itself, ``writer`` makes the bytes of a file of Kaggle's layout.
"""
