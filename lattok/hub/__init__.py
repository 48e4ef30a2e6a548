"""Artefacts in folders and on the Hub: strict saving and loading, model cards, one door to huggingface_hub."""

from lattok.hub.model import CARD as CARD
from lattok.hub.model import CONFIG as CONFIG
from lattok.hub.model import EVALUATION as EVALUATION
from lattok.hub.model import FAMILIES as FAMILIES
from lattok.hub.model import OWN as OWN
from lattok.hub.model import PARTS as PARTS
from lattok.hub.model import TRAINING as TRAINING
from lattok.hub.model import WEIGHTS as WEIGHTS
from lattok.hub.model import HubModel as HubModel
from lattok.hub.model import Place as Place
from lattok.hub.model import config_of as config_of
from lattok.hub.model import family_of as family_of
from lattok.hub.model import parse_config as parse_config
from lattok.hub.model import read_config as read_config
from lattok.hub.model import resolve as resolve
