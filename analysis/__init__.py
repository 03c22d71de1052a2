"""Tables, figures and reports of runs: python -m analysis --help."""
