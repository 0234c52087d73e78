"""Ablations: a file asks the question, one command plans, runs, resumes and reports it."""
