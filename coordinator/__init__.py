"""The coordinator: matches orders to offers, has work checked, settles, keeps reputation."""
