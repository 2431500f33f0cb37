"""The image sets: an entry holds what is known of a set and what loads it. A new set is a file here, or an entry in one."""
