"""The published P2T policy: its modules, and conversion of its checkpoints."""

from lattok_p2t_policy.convert import p2t_vla as p2t_vla
from lattok_p2t_policy.convert import read_p2t_vla as read_p2t_vla
from lattok_p2t_policy.released import ReleasedVLA as ReleasedVLA
