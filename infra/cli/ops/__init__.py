"""What operators ask and tell a running cluster."""
