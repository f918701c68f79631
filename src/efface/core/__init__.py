"""One numerical idea per file; no method names inside."""
