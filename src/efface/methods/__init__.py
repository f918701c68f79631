"""One file per paper; a file is found by its name."""
