"""Showing and mirroring a run. The run folder's CSV files are the truth; everything here only reads or repeats it."""
