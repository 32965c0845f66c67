"""One turn on its agent, from `StartTurn` to the end in the log."""
