"""Vision-language backbones of policies behind one protocol. Those of Hugging Face need `pip install 'lattok[vla]'`."""

from lattok.backbones.base import Backbone as Backbone
from lattok.backbones.base import BackboneOut as BackboneOut
from lattok.backbones.base import LoraSpec as LoraSpec
from lattok.backbones.scratch import ScratchBackbone as ScratchBackbone
from lattok.backbones.scratch import ScratchSize as ScratchSize
