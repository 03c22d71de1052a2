"""Networks computed in C on a CPU."""
