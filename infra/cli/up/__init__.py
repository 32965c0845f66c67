"""`agcluster up`: everything on one machine, as separate processes."""
