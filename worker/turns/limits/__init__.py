"""What ends a turn early: its budgets, its time, and those who stop it."""
