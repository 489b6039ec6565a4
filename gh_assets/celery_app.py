"""What the Celery workers load: ``celery -A gh_assets.celery_app worker``. See docs/operations.md."""

from gh_assets.automation.executors import celery_app
from gh_assets.settings import load_settings

app = celery_app(load_settings())
