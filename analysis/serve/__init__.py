"""The report of runs that are still training, served live to a browser on this machine."""
