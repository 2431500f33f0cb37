"""What is true of a run, why it failed, and which runs a name means."""
