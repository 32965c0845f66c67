"""The connection to Redis: connections, scripts, replies. Other packages define what is stored."""
