"""What a provider decides, without touching the world."""
