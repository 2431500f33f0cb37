"""Speed measured against others, in turns: `python -m experiments benchmark NAME`."""
