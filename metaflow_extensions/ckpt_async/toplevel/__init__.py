"""Names that stand in `metaflow` itself; Metaflow loads the module that is named here."""

toplevel = "toplevel"
