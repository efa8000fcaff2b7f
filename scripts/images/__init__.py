"""What scripts/build-image makes images from: packages, and links between libraries cut."""
