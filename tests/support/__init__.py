"""Stand-ins, stores and servers that tests share."""
