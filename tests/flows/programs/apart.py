"""Imported by a program, it has checkpoints stored where CHECKPOINTS_AT says, if it does, whatever the flow's datastore is.

What Metaflow itself stores stays local then, where it costs little and does not depend on the line to the checkpoints.
"""

import os

from metaflow_extensions.ckpt_async.plugins.checkpoint import store

if "CHECKPOINTS_AT" in os.environ:
    store.address_of_datastore = lambda datastore: store.store_address("s3", os.environ["CHECKPOINTS_AT"])
