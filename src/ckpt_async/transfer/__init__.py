"""Moving checkpoints between local files and a store. Sees a store, never the spool."""
