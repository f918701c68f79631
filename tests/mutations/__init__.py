"""Small mistakes in numerics, one line each, and the tests of CI that must catch them."""
