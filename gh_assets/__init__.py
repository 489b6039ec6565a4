"""A repository recommender that keeps itself current, as a Dagster asset project.

Kept free of imports: the guardians of the embedded servers import this package, and have to start at once.
"""

# Modules that moved, under the names that people wrote into dagster.yaml, Celery's and torchrun's command lines.
__path__.append(f"{__path__[0]}/former_names")

__version__ = "1.0.0"
