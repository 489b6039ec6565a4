"""A repository recommender that keeps itself current, as a Dagster asset project.

Kept free of imports: the guardians of the embedded servers import this package, and have to start at once.
"""

__version__ = "0.1.0"
