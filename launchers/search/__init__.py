"""hydra/sweeper=optuna: search for hyper-parameters under the cost constraint, with Optuna.

    python run.py -m hydra/sweeper=optuna hydra.sweeper.n_trials=30 env=toy seed=0,1 \\
        'guidance.rho=tag(log, interval(0.1, 10))' 'guidance.dual.learning_rate=tag(log, interval(1e-5, 1e-2))'

A trial is one setting, trained with every seed. Trials are proposed in batches, and each batch is a sweep like any
other: on this machine or on SLURM, from one frozen copy of the code, resumed after whatever stops it. The study is one
journal beside the sweep's file. Everything else is in the runs' folders, so that the same command resumes the search
after any kill without losing or repeating a trial:

    space     the searched keys, from Hydra's words
    study     Optuna's study: proposals and results, each recorded in one write
    halving   which trials continue at a rung
    loop      propose, train, record, rung by rung
    driver    trials as runs, through the launchers
    summary   what has been found, in words and as a record
    record    search.json, which programs and the report read
"""
