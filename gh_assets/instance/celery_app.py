"""The application that Celery workers load: ``celery -A gh_assets.instance.celery_app worker``."""

from gh_assets.instance.executors import celery_app
from gh_assets.settings import load_settings

app = celery_app(load_settings())
