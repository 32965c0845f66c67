"""The only code that talks to Redis.

Everything that reads then writes is one Lua script in `lua/`.
"""
