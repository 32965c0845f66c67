"""Where files' bytes are kept, outside Redis: a folder of this machine, or an object store."""
