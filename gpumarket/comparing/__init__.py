"""Whether two outputs of a task are the same: pure functions of hostile bytes, a file a rule."""
