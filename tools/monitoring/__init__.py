"""Dashboards as code, and the chart's copy of the rules; `python -m tools.monitoring` writes both."""
