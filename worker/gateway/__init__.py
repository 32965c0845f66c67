"""The gateway, a process of its own per host: the only one that holds a caller's key, and only
during a turn."""
