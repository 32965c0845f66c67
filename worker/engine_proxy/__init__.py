"""The engine proxy: between a worker and the Docker engine, its own process per host."""
