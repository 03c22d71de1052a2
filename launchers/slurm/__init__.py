"""hydra/launcher=slurm: submit job arrays, query SLURM about them, and run their tasks on the nodes."""
