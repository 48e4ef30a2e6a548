"""Moto: latent motion tokens of frame pairs, trained here or converted from the published weights."""
