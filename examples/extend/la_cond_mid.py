"""LA-Cond, guided in the middle of the backbone, so that later layers can use the predicted codes."""

from lattok.vla.strategies import ACTION, LATENT, LatentLoss, Strategy, register_strategy

MIDDLE = LatentLoss("codes", layer=0.5)
register_strategy(Strategy("la_cond_mid", (LATENT, ACTION), (MIDDLE,), labels="steps", title="LA-Cond, middle"))
