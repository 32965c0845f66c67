"""What the cluster costs, side by side with asking the model directly and with LiteLLM's proxy.

`make bench`, or one measure alone: `python -m tests.bench.tiny_turns`. Targets take turns within
one run; no test asserts a time, for machines differ, but `counts` has limits that the tests hold.
Every delta has to arrive once and in order: a fast answer with holes is no answer.

Which module answers which question:

    tiny_turns        turns/s over 16 connections; CPU of each program and commands for a turn
    paced_streams     age of a delta, CPU and commands for a delta, deltas/s per core, by load
    starting_at_once  the first delta of 50 and of 200 streams that begin at the same moment
    silent_streams    KiB of an open stream that says nothing
    counts            Redis' scripts, requests and commands for a turn and a delta, and their limits
    burst             a hundred new conversations at once, with real agents
    fleet_cost        what a thousand workers cost Redis while nobody asks
    fleet_memory      what warm and idle conversations hold, with real agents in Docker
    redis_bytes       what a conversation takes in Redis

`raw_client` asks and measures, `quick_model` and `stand_in` are what is asked, `field` puts them
side by side, `cpu` and `redis_cost` count, `section` and `table` say what was found.

An older commit is measured with this folder, on the same machine:

    git worktree add --detach ../before COMMIT && cp tests/bench/*.py ../before/tests/bench/
    cd ../before && git checkout -- tests/bench/stand_in_worker.py tests/bench/farm_host.py
    PYTHONPATH=$PWD python -m tests.bench.tiny_turns

The two files that are brought back are the ones that know the worker's insides.
"""
