"""The loaders that bench_input measures, and the process that runs one."""
