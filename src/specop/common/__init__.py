"""What every layer may use: errors, names, hashing, the clock. Nothing here does I/O beyond reading the clock."""
