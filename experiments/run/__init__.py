"""One run in a process of its own: the worker, its heartbeat and stop signals, its ranks, where and with what code it ran."""
