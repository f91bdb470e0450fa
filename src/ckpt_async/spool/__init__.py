"""The spool: snapshots on local disk that are not yet in the store. A folder is a state, a rename is a transition."""
