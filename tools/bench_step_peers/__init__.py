"""The steps that bench_step times."""
