"""Showing and mirroring a run. Everything here only reads the CSV files of the run's folder, or copies them."""
