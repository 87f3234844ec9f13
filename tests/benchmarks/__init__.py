"""Tests of the benchmarks' own parts. What they measure is never asserted."""
