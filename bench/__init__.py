"""Measures. Imports the very loader, step and models that train.py uses; nothing is measured on a copy of them."""
