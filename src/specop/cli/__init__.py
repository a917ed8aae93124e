"""`specop`, also `kubectl specop`: the loop at a glance, approving, retraining, reports; as the user who runs it."""
