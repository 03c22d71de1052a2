"""Does augmenting the Lagrangian change the distribution of the optimal policy? Exact answers on small problems.

Read in this order: problems, energies (L and L_A), quadrature, policies (Boltzmann densities and distances),
multipliers (the choices of λ), policy_level (reading A), zero_temperature, denoising, study (the entry point for
`run.py`).
"""
