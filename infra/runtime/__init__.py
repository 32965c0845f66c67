"""What every program of ours needs to run: settings, identity, sealing, clock, logs, signals."""
