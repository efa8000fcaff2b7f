"""The `gpumarket` command: one file a noun, imported only when its command is called."""
