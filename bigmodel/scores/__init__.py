"""Scores of predictions that are no means of rows: functions on the host, of all rows at once."""
