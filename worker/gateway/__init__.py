"""A process of its own per host: the only one that holds a caller key, and only during a turn."""
