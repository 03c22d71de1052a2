"""From run folders to tables and pictures: python -m analysis --help."""
