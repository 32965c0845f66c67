"""The `agcluster` command: starts the programs as processes, never imports them."""
