"""Tests of image, chart, dashboards and alerts."""
