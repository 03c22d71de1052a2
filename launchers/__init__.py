"""Sweeps: many runs on this machine or on a SLURM cluster, each in a process of its own.

    python run.py -m agent=vesde,ddpm seed=0,1,2 hydra.launcher.jobs=2
    python run.py -m agent=vesde,ddpm seed=0,1,2 hydra/launcher=slurm hydra.launcher.partition=gpu
    python -m launchers status runs
"""
