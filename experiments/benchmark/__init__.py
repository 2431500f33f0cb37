"""Speed measured against others, interleaved in one process: `python -m experiments benchmark NAME`."""
