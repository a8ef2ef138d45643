"""The outside world, as real servers on loopback sockets."""
