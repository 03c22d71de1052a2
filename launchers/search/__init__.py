"""hydra/sweeper=optuna: search for hyper-parameters under the cost constraint, with Optuna.

    python run.py -m hydra/sweeper=optuna hydra.sweeper.n_trials=30 env=toy seed=0,1 \\
        'guidance.rho=tag(log, interval(0.1, 10))' 'guidance.dual.learning_rate=tag(log, interval(1e-5, 1e-2))'

A trial is one setting, trained with every seed. Trials are proposed in batches, and each batch is an ordinary sweep, on
this machine or on SLURM, from one code snapshot. The study's proposals and results are one journal beside the sweep's
file, and everything else is in the runs' folders. So the same command resumes the search after a kill, and no trial is
lost or repeated:

    space     the searched keys, parsed from Hydra's overrides
    study     Optuna's study: proposals and results, each recorded in one write
    halving   which trials continue at a rung
    loop      propose, train, record, rung by rung
    driver    trials as runs, through the launchers
    summary   the search's results, as text and as a record
    record    search.json, for other programs and the report
"""
