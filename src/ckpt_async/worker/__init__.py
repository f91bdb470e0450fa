"""The worker: one asyncio loop that uploads what lies in a spool, and the places where that loop can live."""
