"""Latent action models by LARYBench's contract: tokens, tables and its regression probe."""

from lattok_larybench.larybench import export as export
