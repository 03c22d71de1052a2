"""A page about a set of runs: one file that needs nothing else, or the same served live (`analysis.serve`)."""
