"""Tests over real sockets against real servers."""
