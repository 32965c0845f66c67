"""One conversation on this host: its actor, its folders and container, its turns in order."""
