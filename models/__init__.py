"""Networks: x [B, 3, H, W] -> logits [B].  They know no data."""

from models.check import check_model
from models.names import MODEL_NAMES, PretrainedUnavailable

__all__ = ["MODEL_NAMES", "PretrainedUnavailable", "check_model"]
