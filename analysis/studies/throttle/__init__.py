"""Plain and augmented guidance on the task throttle: predictions (theory), results of runs (study), figures."""
