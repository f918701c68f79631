"""Experiments whose results are committed under ``results/``."""
