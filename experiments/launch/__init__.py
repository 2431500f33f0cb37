"""Starts runs: in the local pool, or as jobs of a cluster.

options, launch_plan        what the command asks for; what is about to run
launch, local, process, fork_server, progress       on this machine: pool, processes, display
cluster, job, pack, submissions, snapshot           on a cluster: submit, what a job does, what was sent, code
estimate, preview, calibration, grid                time, cost and disk; `--dry-run`; `--calibrate`; text of a plan
adaptive                    `--until-significant`
"""
