"""An example of a package outside this project, explained in docs/extending.md."""
