"""What a question is: sweeps, factors, expectations, baselines, and the manifest that keeps the plan."""
