"""A report as one HTML file."""

from lattok.evaluation.page.html import render as render
