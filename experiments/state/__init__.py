"""The state of runs, why they ended early, and how users name them.

state       state_of, states_of: one function judges the state of a run for all commands
failures    runs that ended early, in groups
find        runs by any of their names
"""
