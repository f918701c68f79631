"""One file per way of steering sampling."""
