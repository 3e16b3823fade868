"""Objectives side by side: runs that share all but the question, intervals over seeds, a page."""
