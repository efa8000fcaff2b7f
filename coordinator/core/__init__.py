"""What the coordinator decides, as a pure function of events: no I/O, no clock, no randomness."""
