"""`python -m tests.bench`: the whole run."""

from tests.bench.first_delta import main

main()
