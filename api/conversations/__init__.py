"""How callers list, stop and delete their conversations."""
