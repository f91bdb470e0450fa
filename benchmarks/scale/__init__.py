"""What the engine asks of stores, lines and disks when it is used at scale: counted from its own plans, and replayed in simulated time."""
