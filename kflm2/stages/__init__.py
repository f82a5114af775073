"""The stages: each takes its settings, does its work from input to results, and prints what a person should know."""
