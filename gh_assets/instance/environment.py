"""What each process that opens Dagster's instance or executes steps needs in its environment. Importing it sets that.

Dagster reads these variables in every such process and has no other way to set them; values of the user's win.
"""

import os

from gh_assets.local.home import keep_private
from gh_assets.local.network import prepare_network
from gh_assets.local.threads import use_threads
from gh_assets.settings import load_settings

# Events that are written together: see `gh_assets.instance.storage`.
os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", "1000")
# One planned event an asset and run instead of one a partition. The SQLite storage decides this by itself, Postgres by
# this variable.
os.environ.setdefault("DAGSTER_EMIT_PARTITION_SUBSET_IN_PLANNED_EVENTS", "1")
# What Dagster writes under the home is not for other users of the machine.
keep_private()
prepare_network()
use_threads(load_settings().threads)
