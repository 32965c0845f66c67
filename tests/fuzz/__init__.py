"""Bytes that nobody would send, over every socket that somebody hostile can reach.

Bounded and repeatable in the everyday run; `make fuzz` looks for as long as it is given.
"""
