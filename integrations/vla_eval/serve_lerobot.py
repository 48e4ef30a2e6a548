# /// script
# requires-python = ">=3.12,<3.13"
# dependencies = ["lattok[vla]", "lattok_vla_eval", "lerobot_policy_lattok", "lerobot>=0.6"]
#
# [tool.uv.sources]
# lattok = { path = "../..", editable = true }
# lattok_vla_eval = { path = ".", editable = true }
# lerobot_policy_lattok = { path = "../lerobot_policy_lattok", editable = true }
# ///
"""The same for checkpoints of lattok's LeRobot plugin."""

from lattok_vla_eval import serve

if __name__ == "__main__":
    serve()
