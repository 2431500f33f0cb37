"""From run directories to an answer: a table with n, intervals and words, figures, a report."""
