"""hydra/launcher=slurm: job arrays, what SLURM says about them, and the process that runs a task on its node."""
