"""What the cluster costs, side by side with asking the model directly and with LiteLLM's proxy.

`make bench` or `python -m tests.bench.first_delta`. Targets take turns within one run and are
reported as ratios over the direct request; no test asserts a time, for machines differ. What is
asserted is that every delta arrived once and in order: a fast answer with holes is no answer.

`streams` asks and measures one answer, `targets` starts what is asked, `runs` lets them take turns,
`redis_cost` counts commands, `stats` and `table` make figures of it.
"""
