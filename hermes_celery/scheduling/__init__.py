"""What is due becomes a message: lease, tick, planning ahead, rescue."""
