"""The exporter, a process of its own: shows figures of the whole cluster to Prometheus, once."""
