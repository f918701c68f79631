"""Guides: what steers sampling and changes no weight, one file each."""
