"""The little servers that Tidegate is measured beside; each is started as a process of its own."""
