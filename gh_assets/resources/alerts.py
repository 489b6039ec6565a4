"""Where alerts go, as a Dagster resource."""

import datetime as dt

from pydantic import SecretStr

from gh_assets.resources.base import SettingsResource, setting


class AlertsResource(SettingsResource):
    """The webhook that alerts are posted to, and how often."""

    alert_webhook: str | None = setting("alert_webhook")
    alert_every: str = setting("alert_every")

    @property
    def webhook(self) -> SecretStr | None:
        """The address of the webhook; None if alerts are only logged."""
        return self.settings().alert_webhook

    @property
    def interval(self) -> dt.timedelta:
        """Minimum time between two alerts about one subject."""
        return self.settings().alert_every
