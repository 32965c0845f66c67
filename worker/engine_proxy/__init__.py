"""The engine proxy, a process of its own per host, between a worker and the Docker engine."""
