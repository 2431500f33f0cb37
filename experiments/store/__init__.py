"""The run directory and the files beside it: their names and records, locks, durable writes. Imports no other package of ours.

schema, records, metrics     names of files, states, tags and metrics; the types of records, and their check
run, journal, manifests, search_record     one run, its metrics, the plan of a sweep, the record of a search
states, causes               the state of a run by its own files, and why it ended early
files                        durable writes, locked files, many small files at a time
named, summary, durations, hardware, mlflow     names that users type, statistics over seeds, times, GPUs, links
"""
