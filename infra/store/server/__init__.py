"""How Redis is spoken to: connections, scripts, replies. What is kept there is one floor up."""
