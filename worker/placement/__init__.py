"""Which turns this worker takes, and its periodic sweeps."""
