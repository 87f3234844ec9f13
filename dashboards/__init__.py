"""Dashboards, rules and runbooks as code: ``make dashboards`` writes what Grafana and Prometheus read."""
