"""Run sweeps on this machine or on a SLURM cluster, each run in its own process.

    python run.py -m agent=vesde,ddpm seed=0,1,2 hydra.launcher.jobs=2
    python run.py -m agent=vesde,ddpm seed=0,1,2 hydra/launcher=slurm hydra.launcher.partition=gpu
    python -m launchers status runs
"""
