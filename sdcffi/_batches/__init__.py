"""Batches: files of prompts, and what their rows become: jobs with files, which are generated once."""
