"""What the engine asks of stores, lines and disks at scale: counted from its own plans, and replayed in simulated time."""
