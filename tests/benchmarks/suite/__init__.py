"""The benchmarks: a file each, of the benchmark's name, with one function under `@benchmark`."""
