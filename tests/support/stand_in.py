"""What a test's own `Engine` need not say itself."""

from __future__ import annotations

from PIL.Image import Image

from showtell.captioning import Pixels
from showtell.decoding import SearchOptions
from showtell.images import ImageTransform
from showtell.runtime import OnnxEngine


class StandIn:
    """Sees images transformed, and meets the wishes that an exported captioner does."""

    transform: ImageTransform
    members = 1
    wished = staticmethod(OnnxEngine.wished)

    @property
    def enough(self) -> int:
        return self.transform.enough

    def see(self, image: Image, options: SearchOptions) -> Pixels:
        return self.transform(image)
