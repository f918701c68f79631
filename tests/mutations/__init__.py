"""Small mistakes in numerics, one line each, and the default tests that must catch them."""
