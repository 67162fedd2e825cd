"""Measures time and memory on this machine: masks alone (`masks`), whole systems side by side (`systems`)."""
