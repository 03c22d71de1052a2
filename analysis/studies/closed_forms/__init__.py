"""Errors of the score estimator and of the samplers on densities known in closed form, separated by cause.

Read in this order: targets (the densities), estimator (bias and variance of φ*), distances, chains (a reverse process
compared with its target, and its errors one at a time), squashing (actions squashed by tanh), denoising (DDPM), study
(the entry point for `run.py`).
"""
