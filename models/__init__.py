"""Networks: x [B, 3, H, W] -> logits [B].  They know no data."""

from models.names import MODEL_NAMES, PretrainedUnavailable, check_model

__all__ = ["MODEL_NAMES", "PretrainedUnavailable", "check_model"]
