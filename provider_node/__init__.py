"""The provider: sells a machine's devices, runs tasks in containers, signs what it did."""
