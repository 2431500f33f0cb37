"""The run directory and all that lies beside it: names, records, locks, durable files. Imports nothing else of ours."""
