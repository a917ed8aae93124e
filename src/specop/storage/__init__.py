"""Object storage behind one small protocol, and the content-addressed layout on top of it."""
