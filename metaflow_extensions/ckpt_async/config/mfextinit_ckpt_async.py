"""What the extension changes in Metaflow's configuration: `spin` runs steps with `@checkpoint` too."""

from __future__ import annotations

from metaflow import metaflow_config

# Versions of Metaflow that have no `spin` have no list either.
SPIN_ALLOWED_DECORATORS = [*getattr(metaflow_config, "SPIN_ALLOWED_DECORATORS", ()), "checkpoint"]
