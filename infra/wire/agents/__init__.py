"""What an operator says about an agent, and what is known of it on the way to a turn. Pure data."""
