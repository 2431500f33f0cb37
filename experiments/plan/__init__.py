"""What a question is: sweeps, factors, expectations, baselines, and the manifest that records the plan.

sweep                        Sweep, Plan, Cell; `plan` expands and checks a sweep
factors, expectation         crossed factors; what a sweep expects
registry, baselines, baselines_published     `@baseline` and the starting points
overrides, parser            `--set`; how command lines are read
manifest, configs            the plan on disk; the config of a run directory
"""
