"""Faults in a running cluster, and what its clients saw of them.

`cluster` starts real processes on this machine, `faults` harm them, `client` asks numbered answers
and writes down what came when, `checker` compares that with what was promised. `scenarios` is the
table that `test_faults` runs; `soak` mixes everything at random for as long as one likes.
"""
