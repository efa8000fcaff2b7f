"""What a verifier decides, without any I/O."""
