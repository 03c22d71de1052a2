"""Serve the report of runs that are still training to a local browser, and keep it up to date."""
