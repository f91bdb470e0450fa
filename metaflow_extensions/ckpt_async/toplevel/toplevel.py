"""`from metaflow import Checkpoint`. Every name without underscores in here ends up in `metaflow`: so there is only one."""

from ..plugins.checkpoint.api import Checkpoint as Checkpoint

__mf_extensions__ = "ckpt_async"
#: Metaflow shows it beside its own. Written out: what is imported here is imported by every task of every flow, also where the
#: engine is not.
__version__ = "0.1.0"
