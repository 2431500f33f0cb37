"""The report of a sweep as one HTML page, and the index of all of them."""
