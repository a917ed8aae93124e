"""The EAGLE-3 trainer."""
