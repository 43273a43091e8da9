"""`python -m steer_bench` is `steer-bench`."""

from steer_bench.cli import main

main()
