"""Tests of the middleware package; mirrors its tree."""
