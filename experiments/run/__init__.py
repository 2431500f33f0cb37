"""One run in a process of its own.

worker          one attempt: trains, writes the journal and the status
stop            requests to stop, heartbeat, log
distributed     a run in several processes
cluster         the interface of a cluster
provenance, machine, system     code and packages; cores and GPUs; load while the run trains
readouts        makes the readouts of the code known to the store
"""
