"""The operators' commands for a running cluster."""
