"""Files that callers upload, list, read and delete. Bound to their tenant."""
