"""What more than one module of this track asks of a model: every layer of it is in sight."""

from __future__ import annotations

import tf_keras as keras

from edgelab.errors import EdgelabError


def check_flat(model: keras.Model) -> None:
    """Raise EdgelabError where a layer of `model` is a model itself: what stands in it would go unseen."""
    if inner := next((layer for layer in model.layers if isinstance(layer, keras.Model)), None):
        raise EdgelabError(f"model {inner.name!r} stands inside the model: apply its layers one by one instead")
