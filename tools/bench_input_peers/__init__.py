"""What bench_input measures."""
