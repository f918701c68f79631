"""Erase concepts from image models, and prove what was erased and what was not."""
