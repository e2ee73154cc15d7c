"""Alerts: what `source/` says once, as Prometheus rules, their tests, Grafana's and a runbook."""
