"""Instruments that say whether a concept is in a picture, one file each."""
