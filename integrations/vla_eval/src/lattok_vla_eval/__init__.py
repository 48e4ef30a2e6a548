"""Policies of lattok as model servers of vla-eval."""

from lattok_vla_eval.server import PolicyServer as PolicyServer
from lattok_vla_eval.server import serve as serve
