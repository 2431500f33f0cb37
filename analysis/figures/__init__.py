"""The figures, one file for each kind; `look` is the style that all share, `gallery` the list of kinds."""
