"""A repository recommender that keeps itself current, as a Dagster asset project.

Kept free of imports that take time: the guardians of the embedded servers import this package, and have to start at
once.
"""

import os

# Modules that moved, under the names that people wrote into dagster.yaml, Celery's and torchrun's command lines.
__path__.append(f"{__path__[0]}/former_names")

__version__ = "1.0.0"

# Threads that wait for one another spin for at most 50,000 turns, a fraction of a millisecond, and then sleep. By
# default they spin for milliseconds, and where other processes want the cores, they spin away the time of the thread
# that they wait for: a training then took five times as long with two threads as with one. With threads that sleep at
# once, an epoch on free cores takes a fifth longer. OpenMP reads this when torch loads it, so it has to be set before
# any other import.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "50000")
