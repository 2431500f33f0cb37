"""From a plan to processes and jobs: the local pool, the cluster, estimates, progress."""
