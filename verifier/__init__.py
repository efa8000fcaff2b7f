"""The verifier: re-executes sampled units without seeing the first result, and attests."""
