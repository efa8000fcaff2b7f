"""The coordinator: matches orders to offers, has finished work checked, and settles it on chain."""
