"""`from metaflow import Checkpoint`. Every name without underscores in here ends up in `metaflow`: so there is only one."""

from ckpt_async import __version__ as __version__  # Metaflow shows it beside its own version

from ..plugins.checkpoint.api import Checkpoint as Checkpoint

__mf_extensions__ = "ckpt_async"
