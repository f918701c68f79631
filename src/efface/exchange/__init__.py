"""Deltas to and from the files of other tools."""
