"""The connection to Redis: connections, scripts, replies. What is stored is defined one level
up."""
