"""One turn on its agent, from `StartTurn` to the logged end."""
