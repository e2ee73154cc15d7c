"""Grafana dashboards, made by Grafana's Foundation SDK from lists of panels."""
