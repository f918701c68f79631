"""The studio: a page in the browser over the same work that commands do."""
