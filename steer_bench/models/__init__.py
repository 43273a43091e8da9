"""Models: load, read and steer one."""
