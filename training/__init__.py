"""Loader and model -> a trained network in a run folder.  Knows both through two small protocols."""
