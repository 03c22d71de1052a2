"""A package of one's own beside this project: docs/extending.md walks through it."""
