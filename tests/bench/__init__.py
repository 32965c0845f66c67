"""What the cluster costs, side by side with asking the model directly and with LiteLLM's proxy.

`make bench`, or one measure alone: `python -m tests.bench.tiny_turns`. Targets take turns within
one run; no test asserts a time, for machines differ, but `counts` has limits that the tests hold.
Every delta has to arrive once and in order: a fast answer with holes is no answer.

Which module answers which question:

    first_words         the first delta of a warm conversation, over the direct stream
    tiny_turns          turns/s over 16 connections; CPU of each program and commands for a turn
    paced_streams       age of a delta, CPU and commands for a delta, deltas/s per core, by load
    starting_at_once    the first delta of 50 and of 200 streams that begin at the same moment
    silent_streams      KiB of an open stream that says nothing
    conversation_length a turn after a thousand turns, beside one after ten
    long_conversation   the store's part of that, without agents and HTTP
    idle                what Redis is asked while nobody asks anything
    counts              Redis' scripts, requests and commands for a turn and a delta; their limits
    replicas            the same with two and four API and worker processes
    starts              cold, pooled and resumed conversations; the phases of a cold start
    hibernation         what a hibernated conversation holds
    burst               many new conversations at once
    profiles            where API and worker spend their CPU
    border_cost         the worker's look at one event
    fleet_cost          what a thousand workers cost Redis while nobody asks
    fleet_memory        what warm and idle conversations hold
    redis_bytes         what a conversation takes in Redis

`starts`, `hibernation`, `burst` and `fleet_memory` need real agents; the others have stand-ins for
them. `long_conversation`, `profiles` and the last three are not part of `make bench`.

`raw_client` asks and measures, `quick_model` and `stand_in` are what is asked, `field` puts them
side by side, `cpu` and `redis_cost` count, `section` says what was found, `marks` what is wanted of
it, `plots` draws it.

An older commit is measured with this folder, on the same machine:

    git worktree add --detach ../before COMMIT && cp tests/bench/*.py ../before/tests/bench/
    cd ../before && git checkout -- tests/bench/stand_in_worker.py tests/bench/farm_host.py
    make bench ARGS="--save before.json"    # its own environment: real agents run from it

The two files that are brought back are the ones that know the worker's insides. With Docker, the
agents' image has to be that commit's: build it under a tag of its own and name it in
`AGCLUSTER_AGENT_IMAGE`.
"""
