"""Bytes on disk -> an augmented, normalised, channels-last batch.  Knows no network."""
