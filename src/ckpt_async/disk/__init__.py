"""The local disk: durable writes, scanning a folder, cloning one file, taking and restoring a snapshot. Knows no spool and no
store.

Everything here blocks; a caller in an event loop hands it to a thread. `durable` raises OSError as it comes, because only its
caller knows what the write was for; the other modules raise the project's own errors.
"""
