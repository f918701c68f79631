"""Labelled pictures, read from disk when they are needed: what models that read pictures forget."""
