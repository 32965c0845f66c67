"""The only code that talks to Redis.

Whatever reads and then writes is one Lua script in `lua/`. Every method that talks to Redis raises
`StoreUnavailable` if Redis does not answer within its deadline (`AGCLUSTER_REDIS_TIMEOUT_S`), is
full or read-only; the call may have been carried out nevertheless. Calls are safe to repeat, and a
cancelled call leaves no half-written state, because a script is atomic. Methods of an owner take
its lease's fence and raise `LeaseLost` if a newer owner exists; then nothing was written.
"""
