"""Does augmenting the Lagrangian change the optimal policy's distribution? Exact answers on small problems.

Read in this order: problems (what is solved), energies (L and L_A), quadrature, policies (Boltzmann densities and
distances), multipliers (which λ), policy_level (reading A), zero_temperature, denoising, study (what `run.py` calls).
"""
