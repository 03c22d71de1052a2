"""How far estimator and samplers are from densities that are known exactly, and which approximation costs what.

Read in this order: targets (the densities), estimator (bias and variance of φ*), distances, chains (one reverse
process against its target, and errors switched on one at a time), squashing (through tanh), denoising (DDPM), study
(what `run.py` calls).
"""
