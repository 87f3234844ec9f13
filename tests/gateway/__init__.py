"""Tests of the gateway package; mirrors its tree."""
