"""Which turns this worker takes, and what it sweeps up."""
