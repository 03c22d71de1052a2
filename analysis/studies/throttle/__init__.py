"""Plain against augmented guidance on throttle: what is predicted (theory), what runs did (study), figures."""
