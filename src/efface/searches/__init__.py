"""Searches for the sets that are hardest, or easiest, to forget; one file each."""
