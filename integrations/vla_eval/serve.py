# /// script
# requires-python = ">=3.10,<3.13"
# dependencies = ["lattok[vla]", "lattok_vla_eval"]
#
# [tool.uv.sources]
# lattok = { path = "../..", editable = true }
# lattok_vla_eval = { path = ".", editable = true }
# ///
"""Serve a policy of lattok to vla-eval. `vla-eval serve` runs this with uv; without uv: python serve.py --help."""

from lattok_vla_eval import serve

if __name__ == "__main__":
    serve()
