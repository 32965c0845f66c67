"""How thinking and tools are shown in an answer, whatever its dialect."""
