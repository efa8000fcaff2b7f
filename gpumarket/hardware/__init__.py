"""The arithmetic of hardware challenges, on NumPy arrays or PyTorch tensors."""
