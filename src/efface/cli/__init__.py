"""The command line: one file per verb, and nothing here that the Python API cannot do."""
